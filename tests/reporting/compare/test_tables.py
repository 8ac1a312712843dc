"""Tables of a comparison: each number is its runs', in the form that the paper prints."""

import csv

import pytest

from nopsd.reporting.compare.tables import all_tables, calibration, cost
from nopsd.reporting.table import as_csv


def test_no_row_is_longer_than_its_header(view):
    for table in all_tables(view):
        assert {len(row) for row in table.rows} == {len(table.header)}, table.name


def test_cost_is_read_from_the_log(view):
    """Breaks if tokens are not those of all sequences of all steps, or seconds not of all phases."""
    row = cost(view).rows[0]
    # two steps of mean lengths 10 and 11 with 4 questions, 12 rollouts of 5 tokens, 2 x 1.5 s
    assert [c.value for c in row[2:]] == pytest.approx([2, 0.06, 0.084, 3.0])


def test_tables_of_the_ablations_hold_their_rows_alone(view):
    table = next(t for t in all_tables(view) if t.name == "table1")
    shown = [row[0] for row in table.rows if row[0] not in ("", "Base")]
    assert shown == ["nopsd: bottom 20 % (fewest neurons)", "top: top 20 % (most neurons)"]


def test_ece_has_three_decimals_and_seeds_are_named(view):
    table = calibration(view)
    assert table.rows[1][2].decimals == 3 and table.notes[0] == "Means over seeds 0, 1."


def test_entropy_and_selected_tables(view):
    """Breaks if Table 5 is of other questions than S, or Table 6's sign or interval is lost."""
    made = {t.name: list(csv.reader(as_csv(t).splitlines())) for t in all_tables(view)}
    assert made["table6"][1][:3] == ["biology", "0.250", "0.200"]
    assert made["table6"][1][3] == "-0.0500 [-0.1000, +0.0000]"
    header, row = made["table5"]
    assert header == ["Source", "questions", "Maj@4", "Avg@4", "Maj−Avg"]
    assert float(row[2]) - float(row[3]) == pytest.approx(float(row[4]), abs=0.011)


def test_the_grid_has_every_target_once(view):
    """Breaks if a source that is a target too has two columns, or a target that no run trained on has none."""
    table = next(t for t in all_tables(view) if t.name == "table7")
    assert table.header == ("Model", "biology", "chemistry", "colours")
    assert [row[0] for row in table.rows[:4]] == ["Base", "nopsd_biology", "nopsd_chemistry", "nopsd_Avg"]


def test_the_transfer_matrix_has_every_models_change_on_every_target(view):
    """Breaks if a model's gain on another target than its own is hidden in a mean, or set against another base."""
    table = next(t for t in all_tables(view) if t.name == "transfer")
    assert table.header == ("Method", "trained for", "biology", "chemistry", "colours")
    base, *rows = table.rows
    assert [row[:2] for row in rows if row[0] == "nopsd"] == [("nopsd", "biology"), ("nopsd", "chemistry")]
    for row in rows:
        for cell, before, target in zip(row[2:], base[2:], table.header[2:]):
            if cell is not None:
                assert cell.delta == pytest.approx(cell.value - before.value) and cell.bold == (target == row[1])
