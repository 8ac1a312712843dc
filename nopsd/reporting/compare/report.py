"""A comparison written out.

In: a View. Out, in FOLDER: compare.md and compare.html (everything), and each table as tables/NAME.md, .tex, .csv and
.png; figures/*.png.
"""

from __future__ import annotations

from pathlib import Path

from nopsd.files import write_atomic
from nopsd.reporting.compare.figures import FIGURES
from nopsd.reporting.compare.tables import all_tables
from nopsd.reporting.compare.views import View
from nopsd.reporting.figures.style import png
from nopsd.reporting.page import Page, escape
from nopsd.reporting.table import Table, as_csv, latex, markdown, picture

PAPERS = {
    "table1": "Table 1 (which questions): needs a row that differs from nopsd in the selector alone.",
    "table2": "Table 2 (which demonstrations): needs a row that differs from nopsd in the retriever alone.",
    "table3": "Table 3 (accuracy): no run is finished.",
    "table4": "Table 4 (ECE): no run is finished.",
    "table5": "Table 5 (the base on S): needs a run of nopsd, labels of its pool, and diagnostics.",
    "table6": "Table 6 (entropy gap): needs a run of nopsd, and diagnostics.",
    "table7": "Table 7 (accuracy, all targets): no run is finished.",
    "table8": "Table 8 (ECE, all targets): no run is finished.",
}


def write_comparison(folder: Path, view: View) -> list[Table]:
    """Write all files; returns the tables."""
    tables = all_tables(view)
    for table in tables:
        write_table(folder / "tables", table)
    page = Page("Comparison")
    page.text(f"# Comparison\n\n{escape(' '.join(view.about))}")
    if view.missing:
        page.text("## Not there\n\n" + "\n".join(f"- {escape(said)}" for said in view.missing))
    page.text("## Tables", *(markdown(table) for table in tables))
    made = {table.name for table in tables}
    gaps = [why for name, why in PAPERS.items() if name not in made]
    if gaps:
        page.text("\n".join(f"- {why}" for why in gaps))
    page.text("## Figures")
    for name, (draw, caption) in FIGURES.items():
        page.text(page.figure(name, caption, draw(view), f"{caption}: no data."))
    page.write(folder, "compare")
    return tables


def write_table(folder: Path, table: Table) -> None:
    """One table in all four formats."""
    write_atomic(folder / f"{table.name}.md", markdown(table))
    write_atomic(folder / f"{table.name}.tex", latex(table))
    write_atomic(folder / f"{table.name}.csv", as_csv(table))
    write_atomic(folder / f"{table.name}.png", png(picture(table)))
