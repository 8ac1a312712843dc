"""`nopsd serve`: this host's rollout servers, for a trainer on another host.

In: the configuration (`server`, `rollout.servers_per_host`, `model`) and the API key, from the environment
(NOPSD_SERVER_KEY) or the first line of standard input, never from the command line, where `ps` shows it. Out: JSON
lines, {"starting": how many servers}, for each once it is healthy {"url": ..., "pid": ..., "log": ...}, and for each
that died {"url": ..., "died": ...}. The servers run until standard input ends: when the ssh connection that started
them breaks, or the process at its other end ends, the servers are stopped, and nothing else.
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

from nopsd.cluster.guardian import ENDING_SIGNALS
from nopsd.cluster.servers.local import VllmServer, start_servers, stop_servers
from nopsd.cluster.servers.vllm_command import servers_here
from nopsd.config import Config
from nopsd.errors import ServerError, UserError
from nopsd.keys import SERVER_KEY_VARIABLE, server_key

KEY_WAIT_S = 30.0
LOOK_EVERY_S = 1.0
LONGEST_KEY = 4096  # bytes


class _EndError(BaseException):
    """Standard input has ended, or a signal came."""


def serve(config: Config, model_path: str, folder: Path, device: str, ranks: int = 0) -> None:
    """Start the servers and stay until standard input ends or a signal comes.

    Args:
        config: The servers' settings.
        model_path: A folder or a hub id.
        folder: For their logs.
        device: cpu|cuda.
        ranks: How many train on this host: servers take the devices that they leave, if there are enough.

    Raises:
        UserError: Before anything is started.
        ServerError: They don't come up, or none is left.
    """
    key = read_key()
    count = servers_here(config.rollout.servers_per_host, config.server.tensor_parallel, device, ranks)
    logs = [folder / f"serve-{os.uname().nodename}-{i}.log" for i in range(count)]
    dtype = config.server.dtype or config.model.dtype
    servers: list[VllmServer] = []
    end_on_signals()
    threading.Thread(target=_wait_for_end_of_input, daemon=True).start()
    try:
        print_fact({"starting": count})
        servers = start_servers(config.server, model_path, dtype, logs, device, key, report_ready, ranks)
        watch(servers)
    except _EndError:
        pass
    finally:
        stop_servers(servers)


def end_on_signals() -> None:
    """The first signal raises _EndError here, wherever the program is; later ones can't interrupt the clean-up."""
    ended = threading.Event()

    def end(number: int, frame: object) -> None:
        if not ended.is_set():
            ended.set()
            raise _EndError

    for number in ENDING_SIGNALS:
        signal.signal(number, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)


def watch(servers: Sequence[VllmServer]) -> None:
    """Report each server that dies; ServerError once none is left."""
    alive = list(servers)
    while True:
        time.sleep(LOOK_EVERY_S)
        for one in list(alive):
            try:
                one.check_alive()
            except ServerError as error:
                alive.remove(one)
                print_fact({"url": one.url, "died": str(error).splitlines()[0]})
                if not alive:
                    raise


def report_ready(server: VllmServer) -> None:
    """One JSON line for a healthy server."""
    print_fact({"url": server.url, "pid": server.pid, "log": str(server.log_path)})


def read_key() -> str:
    """The API key; UserError if neither the environment nor standard input gives one."""
    key = server_key() or _first_line(sys.stdin.fileno(), KEY_WAIT_S)
    if not key:
        raise UserError(
            f"nopsd serve needs the API key that its servers will require: in the environment as {SERVER_KEY_VARIABLE} "
            "or as the first line of standard input, which must stay open (the servers live as long as it does)"
        )
    return key


def print_fact(fact: dict[str, object]) -> None:
    """One JSON line on standard output, at once."""
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
