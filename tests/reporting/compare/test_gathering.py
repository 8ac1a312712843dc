"""nopsd.reporting.compare.gathering: which base model a row is compared with."""

import pytest

from nopsd.reporting.compare.gathering import base_folder, view_of
from nopsd.reporting.compare.plan import members
from nopsd.reporting.compare.report import write_comparison
from nopsd.reporting.compare.results import Model
from nopsd.reporting.compare.tables import all_tables
from nopsd.reporting.table import Entry
from nopsd.run.folder import RunFolder
from tests.reporting.compare.conftest import finish, judge

SIZES = {"nopsd": {}, "nopsd_big": {"method": "nopsd", "set": {"model.path": "/models/big"}}}


def avg(result):
    return 100 * result.metrics["avg"]


def sized(plan_of, **keys):
    """A plan of two models whose runs are finished: the lab's, and a better one."""
    plan = plan_of(methods=SIZES, seeds=[0], **keys)
    runs = members(plan)
    for member in runs:
        big = member.label == "nopsd_big"
        finish(member, base=0.7 if big else 0.3, weights="b" if big else "a")
    return plan, runs


def test_a_row_is_compared_with_its_own_model(plan_of):
    """Breaks if a row of another model is measured against the first model's base, silently."""
    view = view_of(*sized(plan_of), {})
    small, big = view.models[Model("lab", "a")], view.models[Model("/models/big", "b")]
    assert (small.labels, big.labels) == (["nopsd"], ["nopsd_big"])
    assert avg(big.base[0]["biology"]) > avg(small.base[0]["biology"]) + 10
    tables = {table.name: table for table in all_tables(view)}
    row = next(row for row in tables["runs"].rows if "nopsd_big" in row and "biology" in row)
    inside = next(cell for cell in row if isinstance(cell, Entry))
    after, before = big.runs["nopsd_big", "biology", 0]["biology"], big.base[0]["biology"]
    assert inside.value == pytest.approx(avg(after)) and inside.delta == pytest.approx(avg(after) - avg(before))


def test_a_study_over_model_sizes_has_a_block_a_model(plan_of, tmp_path):
    """Breaks if one of the bases is missing, a row is under another model, or a table is not rectangular."""
    view = view_of(*sized(plan_of), {})
    tables = {table.name: table for table in write_comparison(tmp_path, view)}
    assert {len(row) for t in tables.values() for row in t.rows if t.name != "table5"} and all(
        len(row) == len(table.header) for table in tables.values() for row in table.rows
    )
    table = tables["table3"]
    assert table.header[:3] == ("Base model", "Method", "")
    assert [row[:3] for row in table.rows] == [
        ("lab", "Base", ""),
        ("", "nopsd", "in"),
        ("", "", "cross"),
        ("big", "Base", ""),
        ("", "nopsd_big", "in"),
        ("", "", "cross"),
    ]
    assert [row[:2] for row in tables["table7"].rows[:1]] == [("lab", "Base")]
    assert "Base models: lab, /models/big" in (tmp_path / "compare.md").read_text()


def test_a_source_may_have_its_own_model(plan_of):
    """Breaks if a label's sources, trained from two models, are averaged against one base."""
    sources = {"biology": {}, "chemistry": {"set": {"model.path": "/models/big"}}}
    plan = plan_of(sources=sources, methods=["nopsd"], seeds=[0])
    runs = members(plan)
    for member in runs:
        finish(member, weights=member.source)
    view = view_of(plan, runs, {})
    assert [list(results.runs) for results in view.models.values()] == [
        [("nopsd", "biology", 0)],
        [("nopsd", "chemistry", 0)],
    ]


def test_the_same_path_with_other_weights_is_another_model(plan_of):
    """Breaks if a checkpoint's folder was overwritten between two runs and both are compared with one base."""
    plan = plan_of(methods=["nopsd"], seeds=[0])
    runs = members(plan)
    for member, weights in zip(runs, ("aaaaaaaaaa", "bbbbbbbbbb")):
        finish(member, weights=weights)
    view = view_of(plan, runs, {})
    assert list(view.model_names().values()) == ["lab aaaaaaaa", "lab bbbbbbbb"]


def test_more_targets_of_a_base_are_its_own(plan_of):
    """Breaks if a base's evaluation on another data set is taken for the other model's."""
    plan, runs = sized(plan_of)
    for path, weights, skill in (("lab", "a", 0.2), ("/models/big", "b", 0.9), ("/models/big", "older", 0.5)):
        run = base_folder(plan, path)
        stage = f"numbers-{weights}-0"
        judge(run.stage_dir(stage), "model", {"numbers": skill}, 3, runs[0].config)
        run.commit(stage, {"model": weights})
    view = view_of(plan, runs, {})
    small, big = (results.base[0]["numbers"] for results in view.models.values())
    assert avg(small) < 40 < 80 < avg(big) and len(view.models) == 2
    assert "numbers" in view.targets.domains


def test_a_given_checkpoint_stands_beside_its_base(plan_of, tmp_path):
    """Breaks if a checkpoint of the second model is compared with the first model's base."""
    plan, runs = sized(plan_of, also={"mine": {"path": "x", "base": "/models/big"}})
    root = RunFolder(tmp_path / "out" / "also" / "mine")
    judge(root.stage_dir("biology-0"), "model", {"biology": 0.9}, 5, runs[0].config)
    root.commit("biology-0", {"model": "c"})
    view = view_of(plan, runs, {})
    assert [list(results.others) for results in view.models.values()] == [[], ["mine"]]
