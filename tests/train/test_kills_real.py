"""kill -9 of the real thing at random moments: the launcher, two ZeRO-3 ranks, a vLLM server that lives on (soak)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nopsd.cluster.servers.local import VllmServer
from nopsd.network import free_port
from nopsd.train.metrics_log import read_metrics
from tests.rounding import LOSS

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.engine]
WORKER = Path(__file__).with_name("worker_train.py")
PATIENCE_S = 500.0
SEED = 7


def launch(action: str, out: Path, model: Path, server: VllmServer) -> subprocess.Popen[bytes]:
    root, binaries = WORKER.parents[2], Path(sys.executable).parent
    port = str(free_port())
    command = [sys.executable, str(binaries / "deepspeed"), "--num_gpus", "2", "--master_port", port]
    env = {
        **os.environ,
        "PYTHONPATH": str(root),
        "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
        "NOPSD_SERVER_URL": server.url,
        "NOPSD_SERVER_KEY": server.api_key,
    }
    with open(out / "log", "ab") as log:
        return subprocess.Popen(
            [*command, str(WORKER), str(model), str(out), action],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=root,
            env=env,
        )


def members(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]


def rank_process(process: subprocess.Popen[bytes], rank: int) -> psutil.Process | None:
    for member in members(process):
        line = member.cmdline()
        if str(WORKER) in line and f"--local_rank={rank}" in line:
            return member
    return None


def kill_after(process: subprocess.Popen[bytes], out: Path, rows: int, delay_s: float, rank: int | None) -> None:
    """`delay_s` after the log has `rows` rows, SIGKILL that rank, or all; then wait for the end of the rest."""
    deadline = time.monotonic() + PATIENCE_S
    log = out / "broken" / "metrics.jsonl"
    while len(read_metrics(log)) < rows and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(delay_s)
    assert process.poll() is None, (out / "log").read_text()[-4000:]
    one = None if rank is None else rank_process(process, rank)
    for member in members(process) if one is None else [one]:
        member.send_signal(signal.SIGKILL)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:  # a launcher that doesn't notice: as an operator would
        for member in members(process):
            member.kill()
        process.wait()


def test_killed_three_times_on_a_real_server_it_gives_the_losses_of_the_unbroken_run(
    server: VllmServer, lab_model_dir: Path, tmp_path: Path
):
    """Broken if the server's later weights, or a half-done step, reach the resumed run."""
    source = random.Random(SEED)
    assert launch("whole", tmp_path, lab_model_dir, server).wait(PATIENCE_S) == 0
    for rows, rank, within_s in ((1, 1, 0.5), (2, None, 0.5), (0, 0, 20.0)):  # the last one while it starts
        process = launch("resume", tmp_path, lab_model_dir, server)
        try:
            kill_after(process, tmp_path, rows, source.uniform(0, within_s), rank)
        finally:
            if process.poll() is None:
                for member in members(process):
                    member.kill()
    assert launch("resume", tmp_path, lab_model_dir, server).wait(PATIENCE_S) == 0
    whole, broken = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "broken"))
    assert [row["step"] for row in broken] == [0, 1, 2]
    for before, after in zip(whole, broken, strict=True):
        assert after["loss"] == pytest.approx(before["loss"], abs=LOSS)  # vLLM batches, and so rounds, as it likes
        assert after["response_length_mean"] == before["response_length_mean"]
    assert (tmp_path / "broken" / "export" / "config.json").is_file()
