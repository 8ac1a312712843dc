"""SIGTERM and `kill -9` in the middle of training: nothing stays behind, nothing computed is lost."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from nopsd.files import read_jsonl
from tests.rounding import LOSS

pytestmark = [pytest.mark.slow, pytest.mark.engine]
SMALL = (
    "data.pool_limit=20",
    "eval.limit=4",
    "eval.n=2",
    "eval.bootstrap=20",
    "eval.targets=[physics]",
    "train.steps=12",
    "train.batch=4",
    "train.micro=2",
    "train.checkpoint_every=3",
    "select.fraction=0.3",
    "context.m=2",
    "server.kv_cache_mib=128",
)


def wait_for(condition, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.2)


def test_a_run_that_is_told_to_end_and_then_killed_leaves_nothing_behind_and_continues(tmp_path):
    """SIGTERM to every process, as Slurm sends it: the step is done, saved, exit 0. Then `kill -9` of the command."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "nopsd", "run", "--preset", "lab", f"run_dir={folder}", *SMALL]
    env = {**os.environ, "DS_ACCELERATOR": "cpu"}
    metrics = folder / "train" / "metrics.jsonl"

    def start_until(rows: int, what: int) -> subprocess.Popen:
        """Start; once the log has so many rows send `what`, SIGTERM to all processes or SIGKILL to the command."""
        with open(tmp_path / "out.txt", "ab") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, env=env)
        try:
            wait_for(
                lambda: process.poll() is not None or (metrics.exists() and metrics.read_text().count("\n") >= rows),
                600,
                f"step {rows}",
            )
            assert process.poll() is None, (tmp_path / "out.txt").read_text()[-2000:]
            family = psutil.Process(process.pid).children(recursive=True)
            assert len(family) >= 4  # the server and the ranks, each under its guardian
            for member in [psutil.Process(process.pid), *family] if what == signal.SIGTERM else ():
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.send_signal(signal.SIGTERM)
            if what == signal.SIGTERM:
                process.wait(120)
        finally:
            process.kill()
            process.wait()
        _, alive = psutil.wait_procs(family, timeout=40)
        assert not alive, [p.cmdline() for p in alive]
        return process

    told = start_until(1, signal.SIGTERM)
    assert told.returncode == 0, (tmp_path / "out.txt").read_text()[-2000:]
    assert "is saved; the same command continues" in (tmp_path / "out.txt").read_text()
    saved = max(int(mark.parent.name.split("_")[1]) for mark in folder.glob("train/checkpoints/*/COMMITTED.json"))
    assert saved == metrics.read_text().count("\n")
    start_until(max(5, saved + 2), signal.SIGKILL)

    stamps = {p: p.stat().st_mtime_ns for p in folder.rglob("manifest.json")}
    before = {row["step"]: row["loss"] for row in read_jsonl(metrics)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps, "a finished stage was made again"
    rows = read_jsonl(metrics)
    assert [row["step"] for row in rows] == list(range(12))
    again = [row for row in rows if row["step"] in before]
    assert all(abs(row["loss"] - before[row["step"]]) < LOSS for row in again), "another data order or other weights"
