"""SIGTERM as ranks take it: one notice is one, all ranks decide alike, and what came before anyone listened counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nopsd.engine import stopping
from nopsd.engine.distributed import Ranks
from nopsd.engine.stopping import Notice, StopRequest

ALONE = Ranks(0, 1, torch.device("cpu"))
# SIGTERM blocked, as the guardian leaves it, comes before anyone listens; then again at once, then much later.
LATE_LISTENER = """
import os, signal, sys, time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
os.kill(os.getpid(), signal.SIGTERM)
from nopsd.engine import stopping
notice = stopping.Notice()
notice.listen()
print("heard" if notice.came_at is not None else "deaf", flush=True)
os.kill(os.getpid(), signal.SIGTERM)  # as `timeout` passes it on to the group
print("one notice", flush=True)
stopping.SAME_NOTICE_S = 0.0
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)
except KeyboardInterrupt:
    print("second", flush=True)
"""


def test_a_notice_that_came_before_anyone_listened_is_heard_and_a_second_one_interrupts():
    """Broken if SIGTERM during the start-up is lost, or if one that a scheduler and a launcher pass on ends a step."""
    run = subprocess.run(
        [sys.executable, "-c", LATE_LISTENER],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert run.stdout.split("\n") == ["heard", "one notice", "second", ""]


class OtherRanks(Ranks):
    """Another rank has received SIGTERM."""

    def all_max(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(tensor)


def test_all_ranks_stop_if_one_is_told():
    assert not StopRequest().made(ALONE)
    assert StopRequest().made(OtherRanks(1, 2, torch.device("cpu")))


def test_the_launching_commands_file_is_a_notice(tmp_path: Path):
    request = StopRequest(tmp_path / "stop.json")
    assert not request.made(ALONE)
    (tmp_path / "stop.json").write_text("{}")
    assert request.made(ALONE)


def test_one_notice_passed_on_twice_is_one(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    handler, mask = signal.getsignal(signal.SIGTERM), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    notice = Notice()
    try:
        notice.listen()
        signal.raise_signal(signal.SIGTERM)
        now[0] += 1
        signal.raise_signal(signal.SIGTERM)
        assert notice.came_at == 100.0
        now[0] += 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
