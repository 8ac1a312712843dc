"""Runs one command and outlives neither it nor its own parent: `python guardian.py COMMAND...`.

The parent holds the other end of our standard input. At its end (the parent closed it, or died in any
way, SIGKILL included) the command gets SIGTERM, after GRACE_S SIGKILL, and so does whatever else is
left in our process group. Exits with the command's exit code. Standard library only; Linux.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time

GRACE_S = 20.0
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def prctl(option: int, value: int) -> None:
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


def wait_for_end(child: subprocess.Popen) -> None:
    """Return when the command has ended, or SIGTERM it when standard input closes, and SIGKILL if it stays."""
    while child.poll() is None:
        readable, _, _ = select.select([sys.stdin], [], [], 0.25)
        if readable and not os.read(sys.stdin.fileno(), 1):
            child.terminate()
            try:
                child.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def end_others(grace_s: float = 5.0) -> None:
    """Wait for what the command left behind, then SIGKILL it; returns when it is gone."""
    deadline = time.monotonic() + grace_s
    while pids := others_in_group():
        for pid in pids if time.monotonic() > deadline else ():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it ended by itself meanwhile
        time.sleep(0.1)
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass  # no orphans left to reap


def main() -> int:
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # the command's orphans come to us
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end of standard input is what ends us

    def before_exec() -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=before_exec)
    wait_for_end(child)
    end_others()
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


if __name__ == "__main__":
    sys.exit(main())
