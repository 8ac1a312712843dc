"""One command at a time works in a run folder: RUN/.lock, held for as long as the command lives.

On one host the kernel keeps the lock (flock) and releases it with the process, however that ends. Across hosts, and on
file systems without flock, it is what the file says: a host, a process, and a heartbeat, the file's time. A process
that is gone, or a heartbeat that is old, holds nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from nopsd.errors import UserError

NAME = ".lock"
BEAT_S = 10.0
STALE_S = 120.0  # without a heartbeat, after which a command on another host counts as gone
_held: set[Path] = set()  # lock files, by this process


@contextmanager
def run_lock(root: Path, name: str = NAME) -> Iterator[None]:
    """Hold the folder, which must be there; or by another `name` what a command of another kind makes in it.

    UserError with the host and process of the command that holds it. Within one process it may be asked for again by
    what it surrounds.
    """
    path = root.resolve() / name
    if path in _held:
        yield
        return
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+") as file:
        _take(file.fileno(), path.parent)
        file.truncate(0)
        file.write(json.dumps(_self()))
        file.flush()
        _held.add(path)
        ended = threading.Event()
        beat = threading.Thread(target=_beat, args=(file.fileno(), ended), name="lock", daemon=True)
        beat.start()
        try:
            yield
        finally:
            ended.set()
            beat.join()
            _held.discard(path)
            file.seek(0)
            file.truncate(0)


def _take(descriptor: int, root: Path) -> None:
    kernel_knows = True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _refusal(root, _content(descriptor)) from error
    except OSError:  # a file system without flock
        kernel_knows = False
    holder = _content(descriptor)
    if not holder:
        return
    if holder.get("host") == socket.gethostname():
        alive = not kernel_knows and _runs(holder)
    else:
        alive = _now(root) - os.fstat(descriptor).st_mtime < STALE_S
    if alive:
        raise _refusal(root, holder)


def _refusal(root: Path, holder: dict[str, Any]) -> UserError:
    host, pid = holder.get("host", "an unknown host"), holder.get("pid", "?")
    return UserError(
        f"run_dir={root} is in use: process {pid} on {host} ({holder.get('command', 'just started')}) works in it. "
        f"Wait for it, end it (`kill {pid}` there), or choose another run_dir"
    )


def _self() -> dict[str, Any]:
    own = psutil.Process()
    command = " ".join(["nopsd", *sys.argv[1:2]])
    return {"host": socket.gethostname(), "pid": own.pid, "started": own.create_time(), "command": command}


def _content(descriptor: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except ValueError:  # its writer was cut off
        return {}
    return found if isinstance(found, dict) else {}


def _runs(holder: dict[str, Any]) -> bool:
    try:
        return bool(psutil.Process(holder["pid"]).create_time() == holder["started"])
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _now(root: Path) -> float:
    """By the clock of the folder's file system, which another host's may differ from."""
    with tempfile.NamedTemporaryFile(dir=root, prefix=NAME) as probe:
        return os.fstat(probe.fileno()).st_mtime


def _beat(descriptor: int, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        os.utime(descriptor)
