"""nopsd.run.expected: if these fail, `nopsd run` promises an end that is hours off, or none where it could."""

from types import SimpleNamespace

import pytest

from nopsd.config import load_config
from nopsd.files import write_json, write_jsonl
from nopsd.run.expected import expected_seconds
from nopsd.run.folder import RunFolder

SIZES = {"pool": 300, "tests": {"svamp": 100, "other": 20}, "held_out": 10}
SET = ["zero_shot.n=1", "eval.n=4", "train.epochs=null", "train.steps=24", "train.batch=8", "train.n=1", "context.m=4"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder whose selection is done."""
    write_json(tmp_path / "data" / "data.json", SIZES)
    monkeypatch.setattr(RunFolder, "manifest", lambda self, stage: {})
    monkeypatch.setattr(RunFolder, "selection", lambda self: SimpleNamespace(uids=["q"] * 60))
    return RunFolder(tmp_path)


def test_evaluations_cost_what_the_pools_answers_cost_until_one_is_done(run):
    config = load_config("lab", SET)
    found = expected_seconds(run, config, {"rollout": 150.0})
    assert found == {"evaluate_base": pytest.approx(130 * 4 * 0.5), "evaluate": pytest.approx(130 * 4 * 0.5)}
    assert expected_seconds(run, config, {"rollout": 150.0, "evaluate_base": 99.0})["evaluate"] == 99.0


def test_a_step_costs_its_answers_and_its_passes(run):
    """SmolLM2 on a CPU: 0.69 s an answer, 0.57 s a scoring pass; a step took 45 s."""
    found = expected_seconds(run, load_config("lab", SET), {"rollout": 206.0, "neurons": 171.0})
    assert found["train"] / 24 == pytest.approx(8 * (2 * 206 / 300 + (5 + 3) * 171 / 300))
    assert 35 < found["train"] / 24 < 55
    rewarded = load_config("lab", [*SET, "method=ttrl", "train.n=2"])
    without_teacher = expected_seconds(run, rewarded, {"rollout": 206.0, "neurons": 171.0})
    assert without_teacher["train"] / 24 == pytest.approx(16 * (2 * 206 / 300 + 3 * 171 / 300))


@pytest.mark.parametrize("done", [{}, {"rollout": None}, {"rollout": None, "evaluate_base": None}])
def test_nothing_is_promised_of_what_was_not_measured(run, done):
    """None: another run's answers were taken over."""
    assert expected_seconds(run, load_config("lab", SET), done) == {}


def test_given_answers_tell_nothing_about_sampling(run):
    write_jsonl(run.stage_dir("data") / "responses.jsonl", [{"uid": "q", "text": "red"}])
    assert expected_seconds(run, load_config("lab", SET), {"rollout": 0.2}) == {}
