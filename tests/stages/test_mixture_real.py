"""A mixture of experts from rollouts to export: if it fails, Qwen3-30B-A3B's preset can't work whatever the GPUs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nopsd.rollout.types import read_rollouts
from tests.conftest import rank_environment
from tests.rollout.test_mixture import save_mixture

SETTINGS = [
    "data.pool_limit=24",
    "eval.limit=4",
    "eval.n=2",
    "zero_shot.max_new=12",
    "train.max_response=12",
    "eval.max_new=12",
    "train.steps=3",
    "train.warmup=1",
    "train.batch=4",
    "train.lr=0.001",
    "train.checkpoint_every=3",
    "context.m=2",
    "neuron.k=40",
    "neuron.per_layer=20",
    "dist.ranks=2",
    "server.max_model_len=2048",
    "context.max_prompt=1024",
    "guard.stop=false",
]


@pytest.mark.engine
@pytest.mark.soak
def test_a_tiny_mixture_goes_from_rollouts_to_export(lab_model_dir: Path, tmp_path: Path) -> None:
    """Under ZeRO-3 on two ranks: served log-probs are compared with trained ones at every step, after every sync."""
    model, run = save_mixture(tmp_path / "model", lab_model_dir), tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "nopsd",
        "run",
        "--preset",
        "lab",
        f"run_dir={run}",
        f"model.path={model}",
        *SETTINGS,
    ]
    done = subprocess.run(command, env=rank_environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    assert len(read_rollouts(run / "rollout" / "rollouts.parquet")) == 24
    rows = [json.loads(line) for line in (run / "train" / "metrics.jsonl").read_text().splitlines()]
    gaps = [row["logprob_gap_max"] for row in rows]
    assert len(rows) == 3 and max(gaps) < 1e-3
    from transformers import AutoModelForCausalLM

    base, trained = (AutoModelForCausalLM.from_pretrained(f) for f in (model, run / "train" / "export"))
    moved = {n for (n, a), b in zip(base.named_parameters(), trained.parameters()) if not torch.equal(a, b)}
    assert {n for n in moved if ".experts." in n} == {n for n, _ in base.named_parameters() if ".experts." in n}
    assert json.loads((run / "evaluate" / "metrics.json").read_text())
