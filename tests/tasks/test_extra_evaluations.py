"""nopsd.tasks.extra_evaluations: which model is evaluated on which targets besides its own run's."""

import json
from types import SimpleNamespace

import pytest

from nopsd.reporting.compare.gathering import base_folder
from nopsd.reporting.compare.plan import members
from nopsd.run.folder import RunFolder
from nopsd.tasks import extra_evaluations as module
from nopsd.tasks.extra_evaluations import extra_evaluations, on_groups
from tests.reporting.compare.conftest import finish


@pytest.fixture
def other_data(tmp_path):
    """A target of another data set than the lab."""
    path = tmp_path / "mine.jsonl"
    rows = [{"id": str(i), "question": f"what is {i}?", "answer": str(i)} for i in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"mine": {"set": {"data.name": "file", "data.path": str(path)}}}


@pytest.fixture
def evaluated(monkeypatch):
    """What would be evaluated: (model, targets, folder)."""
    seen = []

    class FakeSession(SimpleNamespace):
        def __init__(self, config, servers):
            super().__init__(config=config)

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            pass

    def fake(session, run, stage, tests, client):
        seen.append((session.config.model.path, sorted(tests), run.root.name, stage))

    monkeypatch.setattr(module, "CachedServerSession", FakeSession)
    monkeypatch.setattr(module, "evaluate_model", fake)
    return seen


def test_targets_of_other_data_are_evaluated_for_base_and_models(plan_of, other_data, evaluated, tmp_path):
    """Breaks if a model trained on one data set is never tested on another, or tested twice on its own."""
    lab = {"biology": {"set": {"eval.targets": ["chemistry"]}}}
    plan = plan_of(
        sources=lab,
        targets=other_data,
        methods=["nopsd"],
        seeds=[0],
        diagnostics=False,
        also={"given": {"path": "/given"}},
    )
    runs = members(plan)
    finish(runs[0], targets=("biology", "chemistry"))
    for _, work in extra_evaluations(plan, runs, None):
        work()
    export = str(tmp_path / "out" / "runs" / "nopsd-biology-0" / "train" / "export")
    assert evaluated == [
        ("lab", ["mine"], base_folder(plan, "lab").root.name, "mine-0"),
        (export, ["mine"], "targets", "mine-0"),
        ("/given", ["biology", "chemistry"], "given", "biology-0"),
        ("/given", ["mine"], "given", "mine-0"),
    ]


def test_diagnostics_are_of_the_own_rows_first_seed(plan_of):
    plan = plan_of()
    names = [name for name, _ in extra_evaluations(plan, members(plan), None)]
    assert [n for n in names if "Table 6" in n] == [
        "nopsd, biology, seed 0, Table 6",
        "nopsd, chemistry, seed 0, Table 6",
    ]


def test_domains_of_one_data_set_are_evaluated_together(plan_of, evaluated, tmp_path):
    plan = plan_of(set={"eval.targets": ["biology", "chemistry"]})
    on_groups(plan, "m", "lab", 0, RunFolder(tmp_path / "x"), {"numbers"}, None)
    assert [tests for _, tests, _, _ in evaluated] == [["biology", "chemistry"]]


def test_every_base_model_is_evaluated_on_other_data(plan_of, other_data, evaluated):
    """Breaks if a row of another model has no base on a target of other data than its own."""
    sizes = {"nopsd": {}, "big": {"method": "nopsd", "set": {"model.path": "/models/big"}}}
    plan = plan_of(
        sources={"biology": {"set": {"eval.targets": ["chemistry"]}}},
        targets=other_data,
        methods=sizes,
        seeds=[0],
        diagnostics=False,
    )
    runs = members(plan)
    for member in runs:
        finish(member, targets=("biology", "chemistry"))
    for name, work in extra_evaluations(plan, runs, None):
        if name.startswith("base"):
            work()
    folders = [base_folder(plan, path).root.name for path in ("lab", "/models/big")]
    assert evaluated == [("lab", ["mine"], folders[0], "mine-0"), ("/models/big", ["mine"], folders[1], "mine-0")]
