"""nopsd.reporting.table: the paper's published grid gives its published rows in every format."""

import csv
import io

import pytest

from nopsd.reporting.cross_domain import Setting, full_grid, summary
from nopsd.reporting.table import Entry, Table, as_csv, escape, latex, markdown, picture, plain
from tests.reporting.paper import BASE, GRID

COLUMNS = ("BIO", "MAT", "PHYS", "CHEM", "Avg.", "Edu", "MMLU-Pro", "Avg.")
# Table 3's N-OPSD rows, columns as COLUMNS; value and difference.
IN = (
    (74.02, 0.04),
    (73.39, 2.27),
    (83.13, 2.93),
    (72.03, -0.08),
    (75.64, 1.29),
    (72.19, 7.24),
    (72.04, -0.12),
    (74.47, 2.05),
)
CROSS = (
    (72.71, 0.61),
    (73.27, 0.59),
    (71.37, 0.51),
    (73.59, 1.11),
    (72.74, 0.70),
    (75.22, 1.31),
    (73.74, 1.27),
    (73.32, 0.90),
)


@pytest.fixture
def table3():
    return summary(BASE, {"N-OPSD": GRID}, setting=Setting("table3", "Table 3. Avg@8 in 100 % & more", ["A note_1."]))


def near(shown, delta, expected):
    """Values to a hundredth; differences too, which the paper rounds from raw numbers."""
    assert float(shown) == pytest.approx(expected[0], abs=0.0101)
    assert float(delta) == pytest.approx(expected[1], abs=0.0101)


@pytest.mark.parametrize("kind, expected", [("in", IN), ("cross", CROSS)])
def test_table_7_gives_table_3_in_markdown(table3, kind, expected):
    """Breaks if the markdown a user pastes no longer shows the paper's own aggregates."""
    line = next(row for row in markdown(table3).splitlines() if f"| {kind} |" in row)
    cells = [cell.strip() for cell in line.strip("|").split("|")][2:]
    for cell, wanted in zip(cells, expected, strict=True):
        value, delta = cell.removesuffix("</sub>").split(" <sub>")
        near(value, delta, wanted)


@pytest.mark.parametrize("kind, expected", [("in", IN), ("cross", CROSS)])
def test_table_7_gives_table_3_in_latex(table3, kind, expected):
    """Breaks if the LaTeX shows other numbers, or if its columns don't match its header."""
    text = latex(table3)
    assert all(word in text for word in (r"\toprule", r"\midrule", r"\bottomrule", r"100 \% \& more", r"note\_1"))
    assert r"\begin{tabular}{llrrrrrrrr}" in text
    line = next(row for row in text.splitlines() if f" {kind} &" in row)
    cells = [cell.strip() for cell in line.strip().removesuffix(r"\\").split("&")][2:]
    for cell, wanted in zip(cells, expected, strict=True):
        value, delta = cell.removesuffix("}$").split("$_{")
        near(value, delta, wanted)


@pytest.mark.parametrize("kind, expected", [("in", IN), ("cross", CROSS)])
def test_table_7_gives_table_3_in_csv(table3, kind, expected):
    """Breaks if a spreadsheet gets other numbers, or a difference in another column than its value's neighbour."""
    header, *rows = list(csv.reader(io.StringIO(as_csv(table3))))
    assert header[2:] == [part for name in COLUMNS for part in (name, f"{name} delta")]
    cells = next(row for row in rows if row[1] == kind)[2:]
    for value, delta, wanted in zip(cells[::2], cells[1::2], expected, strict=True):
        near(value, delta, wanted)


@pytest.mark.parametrize("kind, expected", [("in", IN), ("cross", CROSS)])
def test_table_7_gives_table_3_in_the_picture(table3, kind, expected):
    """Breaks if the picture's cells hold other numbers than the other formats, or stand in another order."""
    drawn = picture(table3).axes[0].tables[0].get_celld()
    text = {place: cell.get_text().get_text() for place, cell in drawn.items()}
    row = next(r for (r, c), shown in text.items() if c == 1 and shown == kind)
    for column, wanted in enumerate(expected, start=2):
        value, delta = text[row, column].removesuffix(")").split(" (")
        near(value, delta, wanted)


def test_the_grid_marks_the_own_domain_in_every_format():
    """Breaks if a reader can't tell in-domain cells from the others."""
    table = full_grid(BASE, {"N-OPSD": GRID})
    assert "| N-OPSD_BIO | **74.02** | 72.96 |" in markdown(table)
    assert r"N-OPSD\_BIO & \textbf{74.02} & 72.96" in latex(table)
    assert "N-OPSD_BIO,74.02,72.96,82.87,71.97,66.31,69.46" in as_csv(table).splitlines()
    assert "N-OPSD_Avg,74.41,73.39,83.14,72.44,66.47,71.21" in as_csv(table).splitlines()


def test_models_trained_on_no_source_are_set_against_the_base():
    """A checkpoint given with --also has a row whose differences are target by target."""
    table = summary(BASE, {}, others={"mine": {"Biology": 75.0, "edu_feedback": 60.0}})
    row = table.rows[1]
    assert (row[0], row[2].value, row[2].delta) == ("mine", 75.0, pytest.approx(75 - 73.98))
    assert row[3] is None and row[-1].delta == pytest.approx((75 - 73.98 + 60 - 64.95) / 2)


def test_cells_that_could_break_a_format():
    """Breaks if a domain's or a method's own name can spoil a table."""
    assert escape("50% of a_b & {c} –") == r"50\% of a\_b \& \{c\} --"
    assert escape("~^\\") == r"\textasciitilde{}\textasciicircum{}\textbackslash{}"
    table = Table("t", "T", ("a|b", "x,y"), (("c\nd", None), ("e", Entry(-0.0001, 0.0, 2))))
    assert "| a\\|b | x,y |" in markdown(table) and "| c d | – |" in markdown(table)
    assert as_csv(table).splitlines()[0] == 'a|b,"x,y","x,y delta"'
    assert plain(table.rows[1][1]) == "0.00 (+0.00)"
