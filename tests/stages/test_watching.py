"""What is measured while it trains touches nothing that is trained, and judges as the evaluation does."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from nopsd.config import load_config
from nopsd.evaluation.artefacts import write_holdout
from nopsd.evaluation.unlabelled import answer_rows
from nopsd.rollout.types import Rollout
from nopsd.run.session import Session
from nopsd.stages.data import prepare_data
from nopsd.stages.registry import STAGES
from nopsd.stages.watching import HELD, evaluation, watch

TOOLS = str(Path(__file__).resolve().parents[2] / "tools")


class Served:
    """Answers `one` to all; notes with which seeds and versions it was asked."""

    def __init__(self):
        self.asked = []

    def generate(self, prompts, uids, sampling, seed, expected_version=None):
        self.asked.append((list(uids), sampling.n, seed, expected_version))
        return [
            [Rollout(uid, i, p, [5, 6], "<answer>one</answer>", "stop", expected_version) for i in range(sampling.n)]
            for uid, p in zip(uids, prompts, strict=True)
        ]


def session_of(tmp_path, *overrides):
    settings = ("data.pool_limit=12", "data.holdout=6", "eval.n=2", "eval.limit=5", "eval.every_questions=4")
    session = Session(load_config("lab", [f"run_dir={tmp_path / 'run'}", *settings, *overrides]))
    prepare_data(session.config, session.model, session.renderer, session.splits, session.run.begin("data", {}))
    return session


def test_the_first_questions_are_judged_and_those_held_out_are_not(tmp_path):
    session, client = session_of(tmp_path), Served()
    found = evaluation(session, client)(7)
    uids, n, seed, version = client.asked[0]
    assert len(uids) == 4 * 4 + 4 and (n, seed, version) == (2, session.config.eval.seed, 7)
    assert {name.split("/")[1] for name in found} == {*session.tests, "held_out"}
    assert found[f"{HELD}/vote_share"] == 1.0 and 0 <= found["eval/biology/avg"] <= 1
    assert f"{HELD}/base_vote" not in found  # the base has not answered
    rows = {
        q.uid: [Rollout(q.uid, i, [1], [2], "<answer>two</answer>", "stop", 0) for i in range(2)]
        for q in session.holdout
    }
    write_holdout(
        session.run.stage_dir("evaluate_base"), "base", answer_rows(session.holdout, rows, 2, session.eval_reader)
    )
    found = evaluation(session, client)(8)
    assert found[f"{HELD}/same_majority"] == 0.0 and found[f"{HELD}/base_vote"] == 0.0


def test_each_is_measured_when_it_is_due(tmp_path, monkeypatch):
    """Broken if the probe waits for the evaluation, or labels are opened where eval.every is off."""
    session, client = session_of(tmp_path, "eval.every=3", "train.probe_every=2", "train.steps=7"), Served()
    monkeypatch.setattr("nopsd.stages.watching.label_free_probe", lambda *_: lambda version: {"probe": version})
    monkeypatch.setattr("nopsd.stages.watching.evaluation", lambda *_: lambda version: {"eval": version})
    measured = watch(session, client, session.config)
    due = [[], ["probe"], ["eval"], ["probe"], [], ["eval", "probe"], ["eval", "probe"]]
    assert [sorted(measured(step)) for step in range(1, 8)] == due


def test_a_run_has_equal_losses_with_and_without_it(tmp_path, monkeypatch):
    """The promise itself, on the real loop: sampling for the evaluation must not move a seed, a batch or a weight."""
    monkeypatch.syspath_prepend(TOOLS)
    monkeypatch.syspath_prepend(f"{TOOLS}/peers")
    import lab_study

    settings = (
        *("data.pool_limit=16", "data.holdout=3", "context.m=2", "train.steps=3", "train.batch=2", "train.micro=2"),
        *("train.checkpoint_every=1000", "train.probe_every=0", "train.sync_check_every=0", "dist.ranks=1"),
        *("eval.n=2", "eval.limit=2", "train.lr=1e-3", f"run_dir={tmp_path / 'run'}", "zero_shot.max_new=24"),
    )
    found, rows = {}, {}
    monkeypatch.setitem(lab_study.plain_engines.__globals__["teachers"].__dict__, "squared_distance", None)
    for every in (0, 1):
        config = load_config("lab", [*settings, f"eval.every={every}"])
        session = lab_study.made(config)
        folder = session.run.stage_dir("select")
        folder.mkdir(exist_ok=True)
        STAGES["select"].work(session, folder, None)
        calls = []

        def watching(client, session=session, config=config, calls=calls):
            part = watch(session, client, config)
            return lambda version: calls.append(part(version)) or calls[-1]

        client, log, _ = lab_study.trained(session, watching)
        found[every] = log.losses
        rows[every] = torch.cat([p.detach().flatten() for p in client.lm.parameters()])
        assert len(calls) == (3 if every else 0)
    assert found[0] == found[1] and torch.equal(rows[0], rows[1])
    sys.modules.pop("lab_study", None)
