"""The look of all figures (matplotlib, no display needed)."""

from __future__ import annotations

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

# Okabe and Ito's colours: distinct for the colour-blind and in grey.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"
DPI = 110


def panels(
    count: int, width: float = 5.2, height: float = 3.6, columns: int | None = None
) -> tuple[Figure, list[Axes]]:
    """Empty panels in one row or in rows of `columns`.

    Args:
        count: Panels.
        width: Of each, in inches.
        height: Of each, in inches.
        columns: Panels a row; None: all in one.
    """
    columns = min(count, columns or count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, axes


def png(figure: Figure) -> bytes:
    """The figure as a PNG file; `$…$` in a name from data is text."""
    numbers = {
        id(label)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        if axis.get_scale() == "log"  # whose labels are powers, written as formulas
        for label in axis.get_ticklabels(which="both")
    }
    for text in figure.findobj(Text):
        if id(text) not in numbers:
            text.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
