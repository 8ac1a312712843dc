"""One table as data, and as markdown, LaTeX (booktabs), CSV and a picture.

In: rows of labels and `Entry`s. Out: text, or a matplotlib Figure. A difference stands as a subscript behind its value
(the paper's layout, SPEC §9.4), in CSV in a column of its own.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISSING = "–"
LATEX = {
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
    """With its sign, and never a negative nought."""
    return f"{round(value, decimals) + 0.0:+.{decimals}f}"


def number(value: float, decimals: int) -> str:
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def plain(cell: Cell) -> str:
    """The cell as a reader of plain text sees it."""
    if cell is None:
        return MISSING
    if isinstance(cell, str):
        return cell
    shown = number(cell.value, cell.decimals)
    return shown if cell.delta is None else f"{shown} ({signed(cell.delta, cell.decimals)})"


def markdown(table: Table) -> str:
    """A pipe table with its title above and its notes below."""
    body = markdown_table(table.header, [[_markdown_cell(c) for c in row] for row in table.rows])
    notes = "".join(f"\n{note}  " for note in table.notes)
    return f"**{table.title}**\n\n{body}{notes}\n"


def _markdown_cell(cell: Cell) -> str:
    if not isinstance(cell, Entry):
        return MISSING if cell is None else cell
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
    columns = "l" * table.labels + "r" * (len(table.header) - table.labels)

    def line(cells: Sequence[Cell]) -> str:
        return "  " + " & ".join(map(_latex_cell, cells)) + r" \\"

    notes = [rf"\par\footnotesize {escape(note)}" for note in table.notes]
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{escape(table.title)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        line(table.header),
        r"\midrule",
        *map(line, table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *notes,
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_cell(cell: Cell) -> str:
    if not isinstance(cell, Entry):
        return escape(MISSING if cell is None else cell)
    shown = number(cell.value, cell.decimals)
    shown = rf"\textbf{{{shown}}}" if cell.bold else shown
    return shown if cell.delta is None else f"{shown}$_{{{signed(cell.delta, cell.decimals)}}}$"


def escape(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return "".join(LATEX.get(character, character) for character in text)


def as_csv(table: Table) -> str:
    """Header and rows, numbers as printed; a column that has differences is followed by one of them, `NAME delta`."""
    with_delta = [
        any(isinstance(row[i], Entry) and row[i].delta is not None for row in table.rows)  # type: ignore[union-attr]
        for i in range(len(table.header))
    ]
    header = [part for name, more in zip(table.header, with_delta) for part in _columns(name, more)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in table.rows:
        writer.writerow([part for cell, more in zip(row, with_delta) for part in _csv_cells(cell, more)])
    return text.getvalue()


def _columns(name: str, more: bool) -> list[str]:
    return [name, f"{name} delta"] if more else [name]


def _csv_cells(cell: Cell, more: bool) -> list[str]:
    value, delta = "", ""
    if isinstance(cell, Entry):
        value = number(cell.value, cell.decimals)
        delta = "" if cell.delta is None else signed(cell.delta, cell.decimals)
    elif cell is not None:
        value = cell
    return [value, delta] if more else [value]


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
