"""`nopsd serve`: this host's rollout servers, for a trainer on another one (issue 5).

In: the configuration (`server`, `rollout.servers_per_host`, `model`) and the API key, from the environment
(NOPSD_SERVER_KEY) or the first line of standard input, never from the command line, where `ps` shows it. Out: a JSON
line a server once it is healthy, {"url": ..., "pid": ..., "log": ...}; later one for each that died,
{"url": ..., "died": ...}. They live until standard input ends: when the ssh connection that started them breaks, or
whoever holds the other end goes, in whatever way, the servers go too, and nothing else.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from nopsd.config import Config
from nopsd.errors import ServerError, UserError
from nopsd.rollout.client import KEY_VARIABLE
from nopsd.rollout.server import VllmServer, start_servers, stop_servers

KEY_WAIT_S = 30.0
LOOK_EVERY_S = 1.0
LONGEST_KEY = 4096  # bytes
ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _End(BaseException):
    """Standard input has ended, or a signal came."""


def serve(config: Config, model_path: str, folder: Path, device: str) -> None:
    """Start the servers and stay until standard input ends or a signal comes; logs lie in `folder`.

    Raises UserError before anything is started, ServerError if they don't come up or once none is left.
    """
    key = read_key()
    logs = [folder / f"serve-{os.uname().nodename}-{i}.log" for i in range(config.rollout.servers_per_host)]
    dtype = config.server.dtype or config.model.dtype
    servers: list[VllmServer] = []
    end_on_signals()
    threading.Thread(target=_wait_for_end_of_input, daemon=True).start()
    try:
        servers = start_servers(config.server, model_path, dtype, logs, device, key, tell_ready)
        stay(servers)
    except _End:
        pass
    finally:
        stop_servers(servers)


def end_on_signals() -> None:
    """The first signal raises _End here, wherever we are; further ones can't break the taking down."""
    ended = threading.Event()

    def end(number: int, frame: object) -> None:
        if not ended.is_set():
            ended.set()
            raise _End

    for number in ENDINGS:
        signal.signal(number, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)


def stay(servers: Sequence[VllmServer]) -> None:
    """Tell of servers that die; ServerError when none lives."""
    alive = list(servers)
    while True:
        time.sleep(LOOK_EVERY_S)
        for one in list(alive):
            try:
                one.check_alive()
            except ServerError as error:
                alive.remove(one)
                tell({"url": one.url, "died": str(error).splitlines()[0]})
                if not alive:
                    raise


def tell_ready(server: VllmServer) -> None:
    tell({"url": server.url, "pid": server.pid, "log": str(server.log_path)})


def read_key() -> str:
    """The API key; UserError if neither the environment nor standard input gives one."""
    key = os.environ.get(KEY_VARIABLE) or _first_line(sys.stdin.fileno(), KEY_WAIT_S)
    if not key:
        raise UserError(
            f"nopsd serve needs the API key that its servers are to ask for: in the environment as {KEY_VARIABLE}, or "
            "as the first line of standard input, which must stay open (the servers live as long as it does)"
        )
    return key


def tell(fact: dict[str, object]) -> None:
    print(json.dumps(fact), flush=True)


def _first_line(descriptor: int, timeout_s: float) -> str:
    """Without reading ahead: what follows is watched for its end."""
    line = b""
    while len(line) < LONGEST_KEY and select.select([descriptor], [], [], timeout_s)[0]:
        byte = os.read(descriptor, 1)
        if byte in (b"", b"\n"):
            break
        line += byte
    return line.decode(errors="replace").strip()


def _wait_for_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
