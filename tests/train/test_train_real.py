"""The whole stage on the real thing: 2 ranks, ZeRO-3 student and teacher, a vLLM server, kill -9 and resume."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from nopsd.cluster.servers.local import VllmServer
from nopsd.network import free_port
from nopsd.train.checkpoint import COMMITTED, tag_of
from nopsd.train.metrics_log import read_metrics
from tests.rounding import LOGPROB, LOSS

pytestmark = [pytest.mark.slow, pytest.mark.engine]
WORKER = Path(__file__).with_name("worker_train.py")
PATIENCE_S = 400.0


@pytest.fixture(scope="module")
def trained(
    served_run: Callable[..., Path],
    server_environment: dict[str, str],
    lab_model_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """An unbroken run, a run with a lying sync, one killed at its checkpoint and resumed, and one with LoRA."""
    out = tmp_path_factory.mktemp("train")
    kill_when_held(out, lab_model_dir, server_environment)
    return served_run(WORKER, "rare", "partial", "resume", timeout=PATIENCE_S, out=out)


def kill_when_held(out: Path, model: Path, env: dict[str, str]) -> None:
    """Run `whole lying hold`; once the checkpoint of step 2 is committed, SIGKILL launcher and ranks, by id."""
    root, binaries = WORKER.parents[2], Path(sys.executable).parent
    port = str(free_port())
    launch = [sys.executable, str(binaries / "deepspeed"), "--num_gpus", "2", "--master_port", port]
    path = f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}"
    with open(out / "killed.log", "w") as log:
        process = subprocess.Popen(
            [*launch, str(WORKER), str(model), str(out), "whole", "lying", "hold"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=root,
            env={**os.environ, **env, "PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1", "PATH": path},
        )
    mark, deadline = out / "broken" / "checkpoints" / tag_of(2) / COMMITTED, time.monotonic() + PATIENCE_S
    try:
        while not mark.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
    finally:
        if process.poll() is None:
            for member in [*psutil.Process(process.pid).children(recursive=True), process]:
                member.kill()
        process.wait()
    assert mark.exists(), (out / "killed.log").read_text()[-6000:]


def test_an_unbroken_run_trains_on_its_own_rollouts_with_the_servers_weights_equal_to_its_own(trained: Path):
    rows = read_metrics(trained / "whole" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2] == [row["policy_version"] for row in rows]
    for row in rows:
        assert row["logprob_gap_max"] < LOGPROB  # after each sync, float32
        assert row["loss"] > 1e-3 and row["grad_norm"] > 0 and row["skipped_fraction"] == 0
        assert 1 <= row["response_length_mean"] <= row["response_length_max"] <= 12
        assert row["demos_kept_mean"] == 1
    assert rows[2]["ema_distance"] > rows[0]["ema_distance"] > 0


def test_killed_and_resumed_it_gives_the_losses_of_the_unbroken_run(trained: Path):
    whole = read_metrics(trained / "whole" / "metrics.jsonl")
    broken = read_metrics(trained / "broken" / "metrics.jsonl")
    assert [row["step"] for row in broken] == [0, 1, 2]
    for before, after in zip(whole, broken):
        assert after["loss"] == pytest.approx(before["loss"], abs=LOSS)
        assert after["response_length_mean"] == before["response_length_mean"]
        assert after["ema_distance"] == pytest.approx(before["ema_distance"], rel=1e-4)
    assert not (trained / "broken" / "checkpoints" / tag_of(1)).exists()  # so the third step came from the second's


def test_a_sync_that_sends_nothing_is_found_out_on_every_rank_before_the_weights_move(trained: Path):
    for rank in (0, 1):
        assert "step 1: served and trained log-probs differ" in (trained / f"lying{rank}.txt").read_text()
    assert len(read_metrics(trained / "lying" / "metrics.jsonl")) == 1


def test_both_exports_are_one_model_that_loads_and_differs_from_the_base(trained: Path, lab_model_dir: Path):
    from transformers import AutoModelForCausalLM

    models = {
        name: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
        for name, folder in (
            ("whole", trained / "whole" / "export"),
            ("broken", trained / "broken" / "export"),
            ("base", lab_model_dir),
        )
    }
    for name, weight in models["whole"].items():
        # AdamW turns a rounding error in a gradient near zero into a whole step: at most 3 steps of lr 1e-3
        assert (weight - models["broken"][name]).abs().max() <= 6.1e-3, name
        assert (weight - models["broken"][name]).abs().mean() < 1e-5, name
        assert not torch.equal(weight, models["base"][name]), name
    record = json.loads((trained / "whole" / "export" / "nopsd_export.json").read_text())
    assert record["max_logit_difference"] < LOGPROB and record["steps"] == 3


def test_lora_under_an_ema_teacher_with_top_k_and_importance_ratios(trained: Path):
    """Broken if adapters are not merged into what is served, or the served log-probs don't reach the ratio."""
    rows = read_metrics(trained / "lora_ema" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1]
    for row in rows:
        assert row["logprob_gap_max"] < LOGPROB and row["grad_norm"] > 0 and row["loss"] > 1e-3
        assert row["is_ratio"] == pytest.approx(1.0, abs=1e-3)  # served and trained policy are one
    assert rows[1]["ema_distance"] > rows[0]["ema_distance"] > 0
    record = json.loads((trained / "lora_ema" / "export" / "nopsd_export.json").read_text())
    assert record["steps"] == 2 and record["stopped"] is None and record["max_logit_difference"] < LOGPROB
    assert (trained / "lora_ema" / "export" / "adapter" / "adapter_config.json").is_file()


def test_answers_that_are_cut_are_gone_on_with_by_the_next_steps_weights(trained: Path):
    """Broken if a part is sampled or trained on by other weights than its step's: the gap is of all new tokens."""
    rows = read_metrics(trained / "partial" / "metrics.jsonl")
    assert rows[0]["cut_share"] == rows[0]["continued"] == 0 and all(row["staleness"] == 0 for row in rows)
    for before, row in zip(rows, rows[1:]):
        assert row["cut_share"] > 0 and row["logprob_gap_max"] < LOGPROB and row["loss"] > 1e-3
        assert row["continued"] == round(before["cut_share"] * (4 + before["continued"])), "an answer was dropped"
        assert row["loss_tokens"] < rows[0]["loss_tokens"] * 1.5


def test_the_server_holds_the_last_version(trained: Path, server: VllmServer):
    with server.client() as client:
        assert client.policy_version() == 3
