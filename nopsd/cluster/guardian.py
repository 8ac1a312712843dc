"""Runs one command and ends it when the parent process ends: `python guardian.py [--kill] COMMAND...`.

The parent holds the other end of our standard input. When it closes (the parent closed it, or died in any way,
SIGKILL included) the command and all of our process group get SIGINT, and SIGKILL after GRACE_S; with --kill they get
SIGKILL at once. Exits with the command's exit code. Standard library only; Linux.

SIGTERM is ignored here, and blocked in the command and in all that it starts: a scheduler sends it to every process of
a job, and what the parent still needs (the rollout server, DeepSpeed's launchers, which would kill their ranks) must
live until the parent is done. A process that wants to receive it unblocks it (nopsd.engine.stopping).
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

GRACE_S = 20.0
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def guarded(command: Sequence[str], kill: bool = False) -> list[str]:
    """`command` under a guardian; -I and -S, so that nothing of the user's Python runs in it."""
    return [sys.executable, "-I", "-S", __file__, *(["--kill"] if kill else []), *command]


def prctl(option: int, value: int) -> None:
    """prctl(2); OSError if it fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def others_in_group() -> list[int]:
    """Living members of our process group besides ourselves."""
    pids = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/stat") as file:
                    state, _, group = file.read().rsplit(")", 1)[1].split()[:3]
            except OSError:  # it has just ended
                continue
            if int(group) == os.getpgrp() and state != "Z":
                pids.append(int(name))
    return pids


def signal_others(number: int) -> None:
    """Send a signal to every other process of our group."""
    for pid in others_in_group():
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass  # it ended by itself meanwhile


def wait_for_end(child: subprocess.Popen[bytes], kill: bool) -> None:
    """Return when the command has ended; end it when standard input closes."""
    while child.poll() is None:
        readable, _, _ = select.select([sys.stdin], [], [], 0.25)
        if readable and not os.read(sys.stdin.fileno(), 1):
            signal_others(signal.SIGKILL if kill else signal.SIGINT)
            try:
                child.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def end_others(grace_s: float = 5.0) -> None:
    """Wait for what the command left behind, then SIGKILL it; returns when it is gone."""
    deadline = time.monotonic() + grace_s
    while others_in_group():
        if time.monotonic() > deadline:
            signal_others(signal.SIGKILL)
        time.sleep(0.1)
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass  # no orphans left to reap


def main() -> int:
    """Run the command of `sys.argv` to its end; returns its exit code."""
    kill = sys.argv[1] == "--kill"
    command = sys.argv[2:] if kill else sys.argv[1:]
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # the command's orphans become our children
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # only the end of standard input ends this process

    def before_exec() -> None:
        for number in ENDING_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL if kill else signal.SIGINT)

    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=before_exec)
    wait_for_end(child, kill)
    end_others()
    if scratch := os.environ.get("NOPSD_SCRATCH"):  # nopsd.cluster.servers.scratch
        shutil.rmtree(scratch, ignore_errors=True)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


if __name__ == "__main__":
    sys.exit(main())
