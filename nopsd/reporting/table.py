"""One table as data, and as markdown, LaTeX (booktabs), CSV and a picture.

In: rows of labels and `Entry`s. Out: text, or a matplotlib Figure. A difference stands as a subscript behind its value
(the paper's layout), in CSV in a column of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nopsd.reporting.escaping import csv_text
from nopsd.reporting.escaping import escape as as_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISSING = "–"
LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "–": "--",
        "−": "$-$",
        "Δ": r"$\Delta$",
        "→": r"$\to$",
        "±": r"$\pm$",
        "×": r"$\times$",
    }
)


@dataclass(frozen=True)
class Entry:
    """A number and its difference from what it is compared with (None: nothing), as they are to be printed."""

    value: float
    delta: float | None = None
    decimals: int = 2
    bold: bool = False


Cell = str | Entry | None  # None: there is no such number


@dataclass(frozen=True)
class Table:
    """`name` is the files' stem. Rows are as long as the header; the first `labels` columns hold text."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    labels: int = 1


def signed(value: float, decimals: int) -> str:
    """With its sign, and never as -0.0."""
    return f"{round(value, decimals) + 0.0:+.{decimals}f}"


def number(value: float, decimals: int) -> str:
    """Without a sign unless it is below zero, and never as -0.0."""
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def plain(cell: Cell) -> str:
    """The cell as a reader of plain text sees it."""
    if cell is None:
        return MISSING
    if isinstance(cell, str):
        return cell
    shown = number(cell.value, cell.decimals)
    return shown if cell.delta is None else f"{shown} ({signed(cell.delta, cell.decimals)})"


def as_record(table: Table) -> dict[str, object]:
    """The table as plain values, for JSON: a cell is a text, null, or {value, delta}."""
    cells = [[{"value": c.value, "delta": c.delta} if isinstance(c, Entry) else c for c in row] for row in table.rows]
    return {"title": table.title, "header": list(table.header), "rows": cells, "notes": list(table.notes)}


def markdown(table: Table) -> str:
    """A pipe table with its title above and its notes below."""
    header = [as_markdown(name) for name in table.header]
    body = markdown_table(header, [[_markdown_cell(c) for c in row] for row in table.rows])
    notes = "".join(f"\n{as_markdown(note)}  " for note in table.notes)
    return f"**{as_markdown(table.title)}**\n\n{body}{notes}\n"


def _markdown_cell(cell: Cell) -> str:
    if not isinstance(cell, Entry):
        return MISSING if cell is None else as_markdown(cell)
    shown = number(cell.value, cell.decimals)
    shown = f"**{shown}**" if cell.bold else shown
    return shown if cell.delta is None else f"{shown} <sub>{signed(cell.delta, cell.decimals)}</sub>"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table, first column to the left, the others to the right."""
    clean: Callable[[str], str] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")  # noqa: E731
    lines = ["| " + " | ".join(map(clean, row)) + " |" for row in [header, *rows]]
    lines.insert(1, "|:---|" + "---:|" * (len(header) - 1))
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    r"""A `table` environment for booktabs (\usepackage{booktabs})."""
    import pandas as pd

    cells = [[_latex_cell(cell) for cell in row] for row in table.rows]
    styler = pd.DataFrame(cells, columns=[escape(name) for name in table.header]).style.hide(axis="index")
    text: str = styler.to_latex(
        column_format="l" * table.labels + "r" * (len(table.header) - table.labels),
        hrules=True,
        caption=escape(table.title),
        label=f"tab:{table.name}",
        position="t",
        position_float="centering",
    )
    body, end, _ = text.rpartition(r"\end{table}")
    return body + "".join(f"\\par\\footnotesize {escape(note)}\n" for note in table.notes) + end + "\n"


def _latex_cell(cell: Cell) -> str:
    if not isinstance(cell, Entry):
        return escape(MISSING if cell is None else cell)
    shown = number(cell.value, cell.decimals)
    shown = rf"\textbf{{{shown}}}" if cell.bold else shown
    return shown if cell.delta is None else f"{shown}$_{{{signed(cell.delta, cell.decimals)}}}$"


def escape(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return text.translate(LATEX)


def as_csv(table: Table) -> str:
    """Header and rows, numbers as printed; a column that has differences is followed by one of them, `NAME delta`."""
    import pandas as pd

    columns = []
    for i, name in enumerate(table.header):
        cells = [row[i] for row in table.rows]
        values = [number(c.value, c.decimals) if isinstance(c, Entry) else csv_text(c or "") for c in cells]
        columns.append(pd.Series(values, name=csv_text(name)))
        deltas = [signed(c.delta, c.decimals) if isinstance(c, Entry) and c.delta is not None else "" for c in cells]
        if any(deltas):
            columns.append(pd.Series(deltas, name=csv_text(f"{name} delta")))
    text: str = pd.concat(columns, axis="columns").to_csv(index=False, lineterminator="\n")
    return text


def picture(table: Table) -> Figure:
    """The table drawn: title above, notes below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cells = [[plain(c) for c in row] for row in table.rows]
    widths = [max(len(r[i]) for r in [list(table.header), *cells]) + 2 for i in range(len(table.header))]
    title, line, note = 0.4, 0.24, 0.17  # inches
    height = title + line * (len(cells) + 1) + note * len(table.notes) + 0.1
    figure = Figure(figsize=(max(5.0, 0.085 * sum(widths)), height), dpi=110)
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0.01, 0, 0.98, 1))
    axis.set_axis_off()
    axis.text(0, 1 - 0.2 / height, table.title, fontsize=10, va="center")
    rows = line * (len(cells) + 1) / height
    drawn = axis.table(
        cellText=cells,
        colLabels=list(table.header),
        cellLoc="right",
        colLoc="right",
        edges="horizontal",
        colWidths=[w / sum(widths) for w in widths],
        bbox=(0, 1 - title / height - rows, 1, rows),
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8)
    for (_, column), cell in drawn.get_celld().items():
        if column < table.labels:
            cell.set_text_props(ha="left")
            cell._loc = "left"  # matplotlib has no public way to align one column
        cell.set_linewidth(0.4)
    axis.text(0, 0.05 / height, "\n".join(table.notes), fontsize=7, va="bottom", color="#555555")
    return figure
