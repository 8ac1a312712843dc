"""Questions without answers: base and trained model are compared on those held out, and no answer key is opened."""

import json
from pathlib import Path

import pytest

from nopsd.config import load_config
from nopsd.evaluation.artefacts import read_holdout
from nopsd.evaluation.judge import Judge
from nopsd.rollout.types import Rollout, write_rollouts
from nopsd.run import runner
from nopsd.run.session import Session
from nopsd.stages.evaluate import evaluate_weights
from nopsd.stages.holdout import gain, held_answers, held_conclusion, nats_a_token
from nopsd.stages.registry import STAGES

WINDOW = 40


class Served:
    """A server whose model gives one answer to everything; a token's log-prob is -1 under version 0, -3 later."""

    def __init__(self, version=0, window=3072):
        self.version, self.window, self.scored = version, window, []

    def max_model_len(self):
        return self.window

    def generate(self, prompts, uids, sampling, *rest, **more):
        texts = [f"<answer>{'x' if self.version and i % 2 else 'y'}</answer>" for i in range(sampling.n)]
        return [
            [Rollout(uid, i, prompt, [5, 6], text, "stop", self.version) for i, text in enumerate(texts)]
            for uid, prompt in zip(uids, prompts, strict=True)
        ]

    def score(self, prompts, responses):
        self.scored += responses
        return [[-3.0 if self.version else -1.0] * len(response) for response in responses]


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = "".join(json.dumps({"question": f"What is {i}?"}) + "\n" for i in range(30))
    (tmp_path / "mine.jsonl").write_text(rows)
    monkeypatch.setattr(Judge, "key", property(lambda self: pytest.fail("an answer key was opened")))
    monkeypatch.setattr(Session, "client_holding", lambda self, folder, version: Served(version))
    monkeypatch.setattr(Session, "client", lambda self: Served())
    data = ("data.name=file", f"data.path={tmp_path / 'mine.jsonl'}", "data.domain=mine")
    config = load_config("lab", [*data, "method=base", f"run_dir={tmp_path / 'run'}", "eval.n=4", "eval.bootstrap=20"])
    with Session(config) as opened:
        runner.bring_up(STAGES, opened, STAGES.planned(config), None)
        yield opened


def test_a_run_without_labels_is_compared_on_what_it_holds_out(session):
    """Broken if held-out questions are trained on, not answered, or compared with other questions' answers."""
    assert len(session.holdout) == 3 and not {q.uid for q in session.holdout} & {q.uid for q in session.pool}
    assert held_answers(session).comparison(session.config.eval) is None  # nothing was trained
    folder = session.run.stage_dir("evaluate")
    evaluate_weights(session, folder, None, "final", session.run.export, 7)
    assert {row.uid for row in read_holdout(folder, "final")} == {q.uid for q in session.holdout}
    found = held_answers(session).comparison(session.config.eval)
    assert found.drift.value == 2.0 and found.figures["nats"].after.value == 3.0
    assert found.figures["vote_share"].change.value == -0.5 and found.figures["base_vote"].change.value == -0.5
    assert held_conclusion(session).direction == -1


def test_what_could_be_gained_is_told_before_training_and_never_by_labels(session, capsys):
    """Broken if a user trains for hours where the base model has nothing to learn from itself."""
    (warning, shares) = gain(session)
    assert "next to nothing to gain" in warning and "have 100.0% of its votes" in shares
    assert warning in STAGES["evaluate_base"].finish(session)


def test_the_report_of_a_base_without_labels_tells_what_could_be_gained(session):
    text = (session.run.stage_dir("report") / "report.md").read_text()
    assert "next to nothing to gain" in text and "nothing to measure" not in text


def test_a_response_is_scored_as_far_as_the_window_goes_and_an_empty_one_is_not():
    """Broken if a long response ends the evaluation: the server needs one position free."""
    server = Served(window=WINDOW)
    long = Rollout("a", 0, [1] * 10, [2] * 90, "", "length", 0)
    rows = [long, Rollout("b", 0, [1], [], "", "stop", 0)]
    rows.append(Rollout("c", 0, [1] * WINDOW, [2], "", "stop", 0))
    assert nats_a_token(server, rows) == {"a": 1.0} and [len(r) for r in server.scored] == [WINDOW - 11]


def test_a_holdout_that_has_not_been_answered_is_no_comparison(session):
    write_rollouts(session.run.stage_dir("evaluate") / "rollouts.parquet", [])
    assert held_answers(session).comparison(session.config.eval) is None and held_conclusion(session) is None
