"""`kill -9` of the whole command in the middle of training: nothing stays behind, nothing computed is lost."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from nopsd.runs import read_jsonl

pytestmark = pytest.mark.slow
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


def test_a_killed_run_leaves_nothing_behind_and_continues(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "nopsd", "run", "--preset", "lab", f"run_dir={folder}", *SMALL]
    env = {**os.environ, "DS_ACCELERATOR": "cpu"}
    metrics = folder / "train" / "metrics.jsonl"
    with open(tmp_path / "out.txt", "wb") as out:
        first = subprocess.Popen(command, stdout=out, stderr=out, env=env)
        try:
            wait_for(
                lambda: first.poll() is not None or (metrics.exists() and metrics.read_text().count("\n") >= 5),
                600,
                "step 5",
            )
            assert first.poll() is None, (tmp_path / "out.txt").read_text()[-2000:]
            family = psutil.Process(first.pid).children(recursive=True)
            assert len(family) >= 4  # the server and the ranks, each under its guardian
        finally:
            first.send_signal(signal.SIGKILL)
            first.wait()
    _, alive = psutil.wait_procs(family, timeout=40)
    assert not alive, [p.cmdline() for p in alive]

    stamps = {p: p.stat().st_mtime_ns for p in folder.rglob("manifest.json")}
    before = {row["step"]: row["loss"] for row in read_jsonl(metrics)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps, "a finished stage was made again"
    rows = read_jsonl(metrics)
    assert [row["step"] for row in rows] == list(range(12))
    again = [row for row in rows if row["step"] in before]
    assert all(abs(row["loss"] - before[row["step"]]) < 1e-5 for row in again), "another data order or other weights"
