"""Processes that end with the one they work for, whatever ended it: SIGKILL, the kernel's lack of memory, a crash.

`die_with_parent` is the kernel's own way, for a child of a process that lives as long as the thread that started it;
`end_with` watches any process from a thread. Standard library only; Linux.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import threading
import time

PR_SET_PDEATHSIG = 1
POLL_S = 1.0  # where the kernel has no pidfd


def die_with_parent(parent: int) -> None:
    """SIGKILL for this process when its parent, of this id, ends; at once if it has ended already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def end_with(pid: int, grace_s: float = 0.0) -> None:
    """SIGKILL for this process `grace_s` after process `pid` of this host has ended. Returns at once."""
    threading.Thread(target=_watch, args=(pid, grace_s), name="lifeline", daemon=True).start()


def _watch(pid: int, grace_s: float) -> None:
    _wait_for_end(pid)
    time.sleep(grace_s)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_for_end(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:  # an older kernel, or a sandbox without it
        while os.path.exists(f"/proc/{pid}"):
            time.sleep(POLL_S)
        return
    select.select([descriptor], [], [])
    os.close(descriptor)
