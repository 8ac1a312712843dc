"""nopsd.compare: finished runs to tables and figures on disk, in every format."""

import csv
from pathlib import Path

import pytest

from nopsd.files import write_json
from nopsd.reporting.compare.figures import pooled_points
from nopsd.reporting.compare.gathering import material_of, view_of
from nopsd.reporting.compare.plan import members
from nopsd.reporting.compare.report import write_comparison
from nopsd.reporting.compare.tables import all_tables, calibration, cost
from nopsd.reporting.compare.views import Material, Pool
from nopsd.reporting.table import as_csv
from nopsd.run.folder import RunFolder
from tests.reporting.compare.conftest import only


@pytest.fixture
def view(finished):
    view = view_of(*finished, {})
    view.material["nopsd", "biology", 0] = Material(0.5, 0.6)
    view.pools["biology"] = Pool([3.0, 1.0, 2.0, 4.0], [0.0, 1.0, 1.0, float("nan")], 1)
    return view


def test_all_files_are_written_and_tell_the_same(view, tmp_path):
    """Breaks if a table is missing in a format, or the report says that a table that is there is not."""
    tables = write_comparison(tmp_path, view)
    names = {t.name for t in tables}
    assert {"table1", "table3", "table4", "table5", "table6", "table7", "table8"} <= names
    assert {"quality", "material", "cost", "runs"} <= names
    assert {"intervals_avg_questions", "intervals_avg_seeds", "intervals_ece_seeds"} <= names
    assert {"against_nopsd_avg_questions", "against_nopsd_ece_seeds"} <= names
    for name in names:
        for suffix in ("md", "tex", "csv", "png"):
            assert (tmp_path / "tables" / f"{name}.{suffix}").stat().st_size > 30, (name, suffix)
    text = (tmp_path / "compare.md").read_text()
    assert "Table 2 (which demonstrations): needs" in text and "Table 1 (which questions): needs" not in text
    assert (tmp_path / "compare.html").exists() and (tmp_path / "figures" / "figure2.png").exists()


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


def test_each_run_is_told_by_itself(view):
    """Breaks if a run's numbers are another seed's, or its difference is from another seed's base."""
    table = next(t for t in all_tables(view) if t.name == "runs")
    assert len(table.rows) == len(only(view).runs) == 8
    row = next(row for row in table.rows if row[:3] == ("top", "chemistry", "1"))
    after, before = only(view).runs["top", "chemistry", 1]["chemistry"], only(view).base[1]["chemistry"]
    assert row[3].value == pytest.approx(100 * after.metrics["avg"])
    assert row[3].delta == pytest.approx(100 * (after.metrics["avg"] - before.metrics["avg"]))
    assert row[5].value == pytest.approx(after.metrics["ece"]) and row[5].decimals == 3


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


def test_what_a_run_learned_from_is_counted(tmp_path):
    """Breaks if a row's loss is looked for in the wrong questions: the demonstrated ones count each time they are
    shown, the question's own answer is no demonstration, one that can't be judged is neither right nor wrong."""
    run = RunFolder(tmp_path)
    assert material_of(run) is None
    run.begin("select", {"fake": 1})
    near = {"a": ["b", "c"], "d": ["b", "d"], "e": ["x"]}
    contexts = {q: [{"uid": uid, "sample": 0, "distance": 0.5} for uid in found] for q, found in near.items()}
    write_json(run.stage_dir("select") / "contexts.json", contexts)
    chosen = {"uids": ["a", "d", "e"], "threshold": None, "selector": "neuron_count", "stats": {}}
    write_json(run.stage_dir("select") / "selected.json", chosen)
    run.commit("select", {"fake": 1})
    assert material_of(run) is None, "without labels there is nothing to say"
    right = {"a": 1.0, "b": 0.5, "c": 0.0, "d": 0.0, "e": 1.0}
    write_json(run.stage_dir("evaluate_base") / "pool_correct.json", right)
    assert material_of(run) == Material(0.5, pytest.approx(2 / 3), pytest.approx(1 / 3), 0.5)  # a's is, d's is even


def test_figure_3_is_normalised_within_its_source():
    """Breaks if sources of other neuron counts are not brought to one scale, or an unknown answer counts as wrong."""
    points = pooled_points(
        {"a": Pool([10, 30, 20, 99], [1.0, 0.0, 0.5, float("nan")], 1), "flat": Pool([5, 5], [1, 0], 1)}
    )
    x, y = points["a"]
    assert x.tolist() == [0.0, 0.5, 1.0] and y.tolist() == [-0.5, 0.0, 0.5] and "flat" not in points


def test_nothing_finished_still_gives_a_report(plan_of, tmp_path):
    plan = plan_of()
    assert write_comparison(tmp_path, view_of(plan, members(plan), {"nopsd": "no server"})) == []
    text = Path(tmp_path / "compare.md").read_text()
    assert "nopsd: no server" in text and "Table 3 (accuracy): no run is finished." in text


def test_the_grid_has_every_target_once(view):
    """Breaks if a source that is a target too has two columns, or a target that no run trained on has none."""
    table = next(t for t in all_tables(view) if t.name == "table7")
    assert table.header == ("Model", "biology", "chemistry", "colours")
    assert [row[0] for row in table.rows[:4]] == ["Base", "nopsd_biology", "nopsd_chemistry", "nopsd_Avg"]
