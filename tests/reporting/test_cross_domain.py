"""nopsd.reporting.cross_domain: the paper's published grid must give the paper's published aggregates."""

import pytest

from nopsd.reporting.cross_domain import (
    PAPER,
    Layout,
    Setting,
    average,
    column_means,
    cross_domain,
    full_grid,
    in_domain,
    summary,
)
from nopsd.reporting.table import markdown, markdown_table, signed
from tests.reporting.paper import BASE, DOMAINS, GRID

IN = {
    "Biology": (74.02, 0.04),
    "Material": (73.39, 2.27),
    "Physics": (83.13, 2.93),
    "Chemistry": (72.03, -0.08),
    "edu_feedback": (72.19, 7.24),
    "mmlu_pro": (72.04, -0.12),
}
CROSS = {
    "Biology": (72.71, 0.61),
    "Material": (73.27, 0.59),
    "Physics": (71.37, 0.51),
    "Chemistry": (73.59, 1.11),
    "edu_feedback": (75.22, 1.31),
    "mmlu_pro": (73.74, 1.27),
}


def close(cell, expected):
    """Values to print, differences to ±0.01: the paper rounds from raw numbers."""
    value, delta = expected
    assert cell.value == pytest.approx(value, abs=0.0051)
    assert cell.delta == pytest.approx(delta, abs=0.0101)


@pytest.mark.parametrize("source", DOMAINS)
def test_in_and_cross_domain_rows_are_the_papers(source):
    """In- and cross-domain numbers of every source."""
    close(in_domain(GRID, BASE)[source], IN[source])
    close(cross_domain(GRID, BASE)[source], CROSS[source])


def test_averages_equal_the_papers_tables():
    """The averages over sources and over the four science sources."""
    inside, cross = in_domain(GRID, BASE), cross_domain(GRID, BASE)
    close(average(inside, DOMAINS), (74.47, 2.05))
    close(average(inside, PAPER.science), (75.64, 1.29))
    close(average(cross, DOMAINS), (73.32, 0.90))
    close(average(cross, PAPER.science), (72.74, 0.70))
    assert sum(BASE.values()) / 6 == pytest.approx(72.42, abs=0.005)
    means = column_means(GRID, DOMAINS)
    assert sum(means.values()) / 6 == pytest.approx(73.51, abs=0.005)  # another aggregate than 74.47


def test_missing_source_drops_out_of_value_and_baseline():
    """A method without its Edu run is compared over five sources on both sides."""
    grid = {s: row for s, row in GRID.items() if s != "edu_feedback"}
    five = [d for d in DOMAINS if d != "edu_feedback"]
    cell = average(in_domain(grid, BASE), DOMAINS)
    assert cell.value == pytest.approx(sum(GRID[s][s] for s in five) / 5)
    assert cell.delta == pytest.approx(sum(GRID[s][s] - BASE[s] for s in five) / 5)
    assert average({}, DOMAINS) is None


def test_a_missing_target_drops_out_of_value_and_baseline():
    grid = {"Biology": {"Biology": 80.0, "Physics": 60.0}}
    cell = cross_domain(grid, BASE)["Biology"]
    assert (cell.value, cell.delta) == (60.0, pytest.approx(60.0 - BASE["Physics"]))
    assert cross_domain({"Biology": {"Biology": 1.0}}, BASE) == {}


def test_table_3_layout():
    lines = markdown(summary(BASE, {"N-OPSD": GRID})).strip().splitlines()[2:]
    assert lines[0] == "| Method |  | BIO | MAT | PHYS | CHEM | Avg. | Edu | MMLU-Pro | Avg. |"
    assert lines[2].startswith("| Base |  | 73.98 | 71.12 | 80.20 | 72.11 | 74.35 | 64.95 | 72.16 | 72.42 |")
    assert lines[3].startswith("| N-OPSD | in | 74.02 <sub>+0.04</sub> | 73.39 <sub>+2.27</sub>")
    assert lines[3].endswith(
        "75.64 <sub>+1.29</sub> | 72.19 <sub>+7.24</sub> | 72.04 <sub>-0.12</sub> | 74.47 <sub>+2.05</sub> |"
    )
    assert lines[4].startswith("|  | cross | 72.71 <sub>+0.61</sub>")
    assert len(lines) == 5


def test_table_4_layout_has_three_decimals_and_gaps_for_what_is_missing():
    grid = {"Biology": {"Biology": 0.1, "Physics": 0.25}}
    lines = (
        markdown(summary({"Biology": 0.125, "Physics": 0.2}, {"X": grid}, setting=Setting("table3", decimals=3)))
        .strip()
        .splitlines()[2:]
    )
    own = "0.100 <sub>-0.025</sub>"
    assert lines[3] == f"| X | in | {own} | – | – | – | {own} | – | – | {own} |"
    assert "0.250 <sub>+0.050</sub>" in lines[4]


def test_table_7_layout():
    lines = markdown(full_grid(BASE, {"N-OPSD": GRID})).strip().splitlines()[2:]
    assert lines[0] == "| Model | BIO | MAT | PHYS | CHEM | Edu | MMLU-Pro |"
    assert lines[3] == "| N-OPSD_BIO | **74.02** | 72.96 | 82.87 | 71.97 | 66.31 | 69.46 |"
    assert lines[-1] == "| N-OPSD_Avg | 74.41 | 73.39 | 83.14 | 72.44 | 66.47 | 71.21 |"
    assert len(lines) == 2 + 1 + 6 + 1


def test_other_domains_than_the_papers_have_their_own_layout():
    layout = Layout(science=("numbers", "colours"), others=(), labels={"numbers": "NUM"})
    table = summary({"numbers": 1.0, "colours": 2.0}, {}, layout)
    assert markdown(table).splitlines()[2] == "| Method |  | NUM | colours | Avg. |"


def test_signed_has_no_negative_nought_and_cells_cannot_break_a_table():
    assert (signed(-0.0001, 2), signed(0.5, 1), signed(-0.25, 2)) == ("+0.00", "+0.5", "-0.25")
    assert markdown_table(["a|b"], [["c\nd"]]) == "| a\\|b |\n|:---|\n| c d |\n"
