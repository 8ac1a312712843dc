"""In every rank: a sentinel process beside it, a heartbeat every second or two, and the reason for a failure.

In: `dist.heartbeat_s`, and the file that the launching command left (`nopsd.cluster.launch_files`). Out: when a rank is
killed, hangs, is cut off, or loses its launcher, all ranks on all hosts end. A heartbeat carries the innermost place in
nopsd's code that the rank's main thread executes, so that an error can name the phase.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

from nopsd.cluster.child_environment import python_environment
from nopsd.cluster.coordinator import heartbeat_interval
from nopsd.cluster.launch_files import LaunchFile
from nopsd.cluster.logs import ERROR_PREFIX
from nopsd.cluster.sentinel import Settings, settings_line
from nopsd.cluster.wire import LONGEST_MESSAGE, line
from nopsd.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
PR_SET_PDEATHSIG = 1
NODE_LAUNCHER = b"deepspeed.launcher.launch"
NOT_REPORTED = ("cluster", "commands", "cli.py", "__main__.py")


class Watchdog:
    """A rank's end of the pipe to its sentinel."""

    def __init__(self, settings: Settings, phase: str) -> None:
        """Starts the sentinel. UserError if it can't reach the coordinator."""
        self.phase = phase
        self._main = threading.main_thread().ident
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nopsd.cluster.sentinel"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **python_environment(os.environ)},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(settings_line(settings))
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or b'{"error": "the sentinel died"}')
        self._process.stdout.close()
        if "error" in answer:
            raise UserError(
                f"rank {settings.rank} on {settings.host} can't reach the launching command at {settings.address}:"
                f"{settings.port} ({answer['error']}): is it still there, and do firewalls let these hosts talk?"
            )
        self.port: int = answer["port"]
        self._thread = threading.Thread(
            target=self._send_heartbeats, args=(settings.heartbeat_s,), name="watchdog", daemon=True
        )
        self._thread.start()

    def report(self, message: str, kind: str = "raised", of_rank: int | None = None) -> None:
        """Report why this rank is about to end.

        Args:
            message: One line.
            kind: raised|user_error, as a Failure's.
            of_rank: The rank that failed, if it is another one, which may take longer to report it.
        """
        message = message[:LONGEST_MESSAGE]
        self._send({"message": message, "kind": kind, "at": self._place(), "of_rank": of_rank})

    def disconnect(self) -> None:
        """Announce an orderly end."""
        self._closing.set()
        self._thread.join()
        self._send({"disconnect": True})
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _send_heartbeats(self, heartbeat_s: float) -> None:
        while not self._closing.wait(heartbeat_interval(heartbeat_s)):
            self._send({"at": self._place()})

    def _send(self, message: dict[str, object]) -> None:
        assert self._process.stdin is not None
        try:
            with self._lock:
                self._process.stdin.write(line(message))
                self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            if not self._closing.is_set():
                error = f"{ERROR_PREFIX}the watchdog's sentinel was killed; this rank ends"
                print(error, file=sys.stderr, flush=True)
                os._exit(1)

    def _place(self) -> str:
        frame = sys._current_frames().get(self._main or 0)
        place = innermost(frame)
        return f"{self.phase}, {place}" if place else self.phase


def innermost(frame: FrameType | None) -> str:
    """The innermost of nopsd's own functions on a stack, as `package/file.py:line function`; '' if there is none."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(f"{PACKAGE}{os.sep}"):
            own = name[len(str(PACKAGE)) + 1 :]
            if not own.startswith(NOT_REPORTED):
                return f"{own}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


def die_with_node_launcher() -> None:
    """If DeepSpeed's node launcher started this process, end when it ends, in whatever way. Other launchers may have
    forked this process from a thread that ends before them."""
    parent = os.getppid()
    try:
        started_by = Path(f"/proc/{parent}/cmdline").read_bytes()
    except OSError:
        return
    if NODE_LAUNCHER not in started_by:
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended in between
        os._exit(1)


def connect_to_coordinator(launched: LaunchFile, rank: int, world: int, phase: str) -> Watchdog:
    """A watchdog connected to the group's coordinator.

    Args:
        launched: Its address, port and key; with port 0 this rank's sentinel runs the coordinator itself.
        rank: This one's number.
        world: Ranks in all.
        phase: What the rank is at, for messages.
    """
    host, where = socket.gethostname(), (launched.address, launched.port, launched.key, launched.heartbeat_s)
    return Watchdog(Settings(rank, world, os.getpid(), host, *where), phase)
