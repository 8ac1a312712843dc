"""Every teacher and objective but the default, by the whole train stage on 2 ranks and a real vLLM server.

Minutes: with --soak alone. A combination of several is in test_train_real.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nopsd.train.metrics_log import read_metrics
from tests import command
from tests.rounding import LOGPROB

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.engine]
WORKER = Path(__file__).with_name("worker_rare.py")
ALL = (
    "paper",
    "lora_frozen",
    "lora_ema",
    "lora_pmi",
    "live",
    "trust_region",
    "pmi",
    "barycenter",
    "contrast",
    "contrast_live",
    "base_kl",
    "topk",
)
STEP_0_AS_THE_PAPERS = ("lora_frozen", "live", "trust_region", "base_kl")  # all teachers and the student are θ_0 then


Launch = Callable[..., Path]


@pytest.fixture(scope="module")
def launch(served_run: Launch) -> Launch:
    return lambda *cases: served_run(WORKER, *cases)


def check(folder: Path, base: Path) -> list[dict[str, Any]]:
    """The rows of a run that trained, was served its own weights, and left a model that loads and has moved."""
    from transformers import AutoModelForCausalLM

    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1] == [row["policy_version"] for row in rows]
    for row in rows:
        assert row["logprob_gap_max"] < LOGPROB and row["grad_norm"] > 0 and row["skipped_fraction"] == 0
        assert row["loss"] is not None and row["repeated_4grams"] is not None
    export = AutoModelForCausalLM.from_pretrained(folder / "export", dtype=torch.float32).state_dict()
    before = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    assert any(not torch.equal(weight, before[name]) for name, weight in export.items())
    record = json.loads((folder / "export" / "nopsd_export.json").read_text())
    assert record["steps"] == 2 and record["stopped"] is None and record["max_logit_difference"] < LOGPROB
    return rows


def test_each_by_itself(launch: Launch, lab_model_dir: Path):
    """Broken if a path of the objective fails on real prompts, real rollouts or real weights."""
    out = launch(*ALL)
    found = {case: check(out / case, lab_model_dir) for case in ALL}
    paper = found["paper"][0]
    for case, rows in found.items():
        print(case, [round(row["loss"], 6) for row in rows], [row["base_kl"] for row in rows])
        same = rows[0]["loss"] == pytest.approx(paper["loss"], rel=1e-4)
        if case in STEP_0_AS_THE_PAPERS:
            assert same, case
        elif case != "paper":
            assert not same, case
    for case in ("base_kl", "lora_pmi"):  # the student begins as the base and leaves it
        assert abs(found[case][0]["base_kl"]) < 1e-5 < found[case][1]["base_kl"], case
    assert found["base_kl"][0]["is_ratio"] == pytest.approx(1.0, abs=1e-3)
    assert found["pmi"][0]["loss"] == pytest.approx(found["lora_pmi"][0]["loss"], rel=1e-4)
    assert found["topk"][0]["loss"] == pytest.approx(found["lora_ema"][0]["loss"], rel=1e-3)


def nopsd(*arguments: str) -> str:
    done = command.nopsd(*arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


SMALL = (
    "data.pool_limit=30",
    "eval.limit=4",
    "eval.n=2",
    "eval.bootstrap=20",
    "train.steps=2",
    "train.batch=4",
    "train.micro=2",
    "select.fraction=0.3",
    "context.m=2",
    "server.kv_cache_mib=128",
)


def test_the_pipeline_makes_the_further_prompts_itself(tmp_path: Path):
    """`auxiliary_prompts` on the lab's pool: broken if a prompt is missing, or the teacher's own contexts are taken."""
    losses = {}
    for name, extra in {
        "paper": [],
        "pmi": ["distill.target=pmi"],
        "contrast": ["distill.contrast=random_ctx", "train.lora.r=4", "teacher.kind=ema"],
    }.items():
        redo = ["--redo", "train"] if losses else []
        nopsd("train", "--preset", "lab", f"run_dir={tmp_path}/run", *SMALL, *extra, *redo)
        rows = read_metrics(tmp_path / "run" / "train" / "metrics.jsonl")
        losses[name] = rows[0]["loss"]
        assert len(rows) == 2 and all(row["loss"] is not None and row["grad_norm"] > 0 for row in rows), name
    print(losses)
    assert len({round(loss, 4) for loss in losses.values()}) == 3


def test_a_run_that_a_guard_stops_is_evaluated_and_says_so_everywhere(tmp_path: Path):
    """A limit that every step passes. Broken if the stop is silent, is an error, or its weights are evaluated."""
    absurd = ("guard.max_kl_ratio=1e-6", "guard.baseline_steps=2", "guard.patience=2", "train.checkpoint_every=1")
    command = ("run", "--preset", "lab", f"run_dir={tmp_path}/run", *SMALL, "train.steps=6", *absurd)
    said = nopsd(*command)
    words = "Training was stopped after 3 of 6 steps: KL(student"
    assert said.count(words) == 2 and "WARNING: " + words in said and "checkpoint of step 1" in said
    record = json.loads((tmp_path / "run" / "train" / "export" / "nopsd_export.json").read_text())
    assert record["steps"] == 1 and record["stopped"]["step"] == 3
    report = (tmp_path / "run" / "report" / "report.md").read_text()
    assert words in report and "guard.max_kl_ratio was passed 2 times in 3 steps, first at step 1" in report
    again = nopsd(*command[:-4])  # other limits: nothing is made afresh, and the stop is reported again
    assert again.count(words) == 2 and again.count("up to date") == 9
