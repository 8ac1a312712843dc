"""Finished runs, made by hand: what `nopsd compare` finds in a run folder, without a model or a server."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nopsd.config import Config
from nopsd.data.records import Option, Question
from nopsd.evaluation.artefacts import write_metrics, write_rows
from nopsd.evaluation.evaluate import evaluate_domain, group_by_question
from nopsd.files import write_json, write_jsonl
from nopsd.reporting.compare.gathering import view_of
from nopsd.reporting.compare.plan import Member, members, read_plan
from nopsd.reporting.compare.views import Material, Pool
from nopsd.rollout.types import Rollout, write_rollouts
from nopsd.run.folder import RunFolder

OPTIONS = tuple(Option(label, f"text {label}") for label in "ABCD")
SETTINGS = {"eval.n": 4, "eval.bootstrap": 40, "train.steps": 2, "train.batch": 4}
TARGETS = ("biology", "chemistry", "colours")
GOLD = "A"


def questions(domain, count=12):
    return [Question(f"{domain}-{i}", domain, "test", f"question {i}?", OPTIONS) for i in range(count)]


def rollouts(domain, skill, seed, k=4, count=12):
    """Answers of which about a share `skill` is right; other seeds answer otherwise."""
    rng = np.random.default_rng([seed, sum(map(ord, domain))])
    return [
        Rollout(
            q.uid, sample, [1, 2], list(range(5)), f"<answer>{'A' if rng.random() < skill else 'B'}</answer>", "stop", 0
        )
        for q in questions(domain, count)
        for sample in range(k)
    ]


def judge(folder: Path, name: str, skills: dict[str, float], seed: int, config: Config):
    """Write what an evaluation leaves; returns its results."""
    plain = replace(config.eval, bootstrap=0)
    results = {}
    for domain, skill in skills.items():
        key = {q.uid: GOLD for q in questions(domain)}
        found = group_by_question(rollouts(domain, skill, seed, config.eval.n))
        results[domain] = evaluate_domain(questions(domain), key, found, plain)
        write_rows(folder, name, results[domain])
    write_metrics(folder, {name: results})
    return results


def only(view):
    """The results of a view that has one base model."""
    (results,) = view.models.values()
    return results


def finish(member: Member, gain: float = 0.2, targets=TARGETS, base: float = 0.4, weights: str = "1"):
    """A finished run of `member`, whose training gained `gain` on every target; `weights`: the base model's hash."""
    run, config, made = RunFolder(member.config.run_dir), member.config, {"model": weights}
    for stage in ("evaluate_base", "evaluate", "rollout", "train"):
        run.begin(stage, made)
    judge(run.stage_dir("evaluate_base"), "base", dict.fromkeys(targets, base), member.seed, config)
    judge(run.stage_dir("evaluate"), "final", dict.fromkeys(targets, base + gain), 100 + member.seed, config)
    write_rollouts(run.stage_dir("rollout") / "rollouts.parquet", rollouts(member.source, 0.4, member.seed, 1))
    rows = [{"step": s, "response_length_mean": 10.0 + s, "time/rollout": 1.0, "time/student": 0.5} for s in (0, 1)]
    write_jsonl(run.stage_dir("train") / "metrics.jsonl", rows)
    for stage in ("evaluate_base", "evaluate", "rollout", "train"):
        run.commit(stage, made)


def diagnose(member: Member):
    """What the diagnostics leave beside a run."""
    run = RunFolder(member.config.run_dir)
    gap = {"questions": 3, "student": 0.25, "teacher": 0.2, "gap": -0.05, "low": -0.1, "high": 0.0}
    write_json(run.stage_dir("entropy_gap") / "entropy_gap.json", {"shannon": gap})
    run.commit("entropy_gap", {"fake": 1})
    folder = run.root / "selected" / "base"
    judge(folder, "model", {member.source: 0.9}, 7, member.config)
    RunFolder(run.root / "selected").commit("base", {"fake": 1})


def plan_in(folder, **keys):
    """A plan of the lab below `folder`."""
    tree = {
        "preset": "lab",
        "folder": str(folder / "out"),
        "sources": ["biology", "chemistry"],
        "methods": {"nopsd": {}, "top": {"method": "nopsd", "set": {"select.selector": "neuron_count_top"}}},
        "seeds": [0, 1],
        "set": SETTINGS,
    }
    return read_plan({**tree, **keys}, "test")


@pytest.fixture
def plan_of(tmp_path):
    """`plan_of(**keys)`: a plan of the lab below tmp_path."""
    return partial(plan_in, tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A plan whose runs are all there, the diagnostics of the first among them, and these runs. Not to be changed."""
    plan = plan_in(tmp_path_factory.mktemp("finished"))
    runs = members(plan)
    for member in runs:
        finish(member, gain=0.2 if member.label == "nopsd" else 0.1)
    diagnose(runs[0])
    return plan, runs


@pytest.fixture
def view(finished):
    view = view_of(*finished, {})
    view.material["nopsd", "biology", 0] = Material(0.5, 0.6)
    view.pools["biology"] = Pool([3.0, 1.0, 2.0, 4.0], [0.0, 1.0, 1.0, float("nan")], 1)
    return view
