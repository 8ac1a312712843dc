"""Starts, watches and stops rollout servers on this host: vLLM's OpenAI-compatible API in processes of its own.

In: the `server` configuration, a model, a log file. Out: a `VllmServer` with `.url` and `.api_key`.
The server ends when this process ends (guardian.py), listens on `server.host` alone and answers nothing but /health
without its random key (auth.py). The same code starts the CPU build and the GPU build.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import httpx

from nopsd.cluster import guardian
from nopsd.cluster.logs import port_was_taken, server_error
from nopsd.cluster.servers.scratch import Scratch, make_scratch
from nopsd.cluster.servers.vllm_command import (
    check_shared_memory,
    checked_model,
    devices_of,
    server_command,
    server_environment,
)
from nopsd.config import ServerConfig
from nopsd.errors import ServerError, UserError
from nopsd.keys import new_key
from nopsd.network import hold_port, in_url, is_wildcard, why_unusable
from nopsd.rollout.client import RolloutClient

INITIAL_VERSION = 0
PORT_TRIES = 4  # starts of one server: vLLM binds its ports seconds after they are chosen


class VllmServer:
    """A running server. Use as a context manager, or call `stop()`; both end only its own processes."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        url: str,
        api_key: str,
        log_path: Path,
        held: socket.socket | None = None,
        scratch: Scratch | None = None,
    ) -> None:
        """`held`: what keeps the port free until the server listens on it; `scratch`: its temporary files."""
        self._process, self._held, self._scratch = process, held, scratch
        self.url = url
        self.api_key = api_key
        self.log_path = log_path

    @property
    def pid(self) -> int:
        """Process id of the guardian, which is also the id of the server's process group."""
        return self._process.pid

    def client(self, timeout_s: float = 600.0) -> RolloutClient:
        return RolloutClient(self.url, self.api_key, timeout_s)

    def check_alive(self) -> None:
        """ServerError, with the log's last lines, if the server has ended."""
        code = self._process.poll()
        if code is not None:
            error = server_error(self.log_path)
            raise ServerError(f"the rollout server at {self.url} died (exit code {code}); {error}")

    def release_port(self) -> None:
        """The server listens: the port needs no holding any more."""
        if self._held is not None:
            self._held.close()

    def begin_stop(self) -> None:
        """Ask the server to end; `stop` waits for it."""
        self.release_port()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def stop(self) -> None:
        """End the server and all its processes; returns when they are gone. May be called twice."""
        self.begin_stop()
        try:
            self._process.wait(guardian.GRACE_S + 10)
        except subprocess.TimeoutExpired:  # the guardian itself hangs: its group is still ours, for it isn't reaped
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._scratch is not None:
            self._scratch.remove()
            self._scratch.close()
            self._scratch = None

    def __enter__(self) -> VllmServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_server(config: ServerConfig, model_path: str, dtype: str, log_path: Path, device: str = "cpu") -> VllmServer:
    """Start vLLM and wait until it is healthy; its policy version is 0.

    Args:
        config: The server's settings.
        model_path: A folder or a hub id.
        dtype: float32|bfloat16, used where `config.dtype` is null.
        log_path: Its output goes there.
        device: cpu|cuda.

    Raises:
        UserError: Before anything is started: vLLM isn't installed, no such model folder, the port is in use.
        ServerError: The server died, or isn't healthy within `config.startup_timeout_s`.
    """
    (server,) = start_servers(config, model_path, dtype, [log_path], device)
    return server


def start_servers(
    config: ServerConfig,
    model_path: str,
    dtype: str,
    log_paths: Sequence[Path],
    device: str = "cpu",
    key: str | None = None,
    ready: Callable[[VllmServer], None] | None = None,
    ranks: int = 0,
) -> list[VllmServer]:
    """One server per log file, all or none, all on this host and with one key; as `start_server`.

    Args:
        config: The servers' settings; they listen on `config.port` and the ports after it (0: any).
        model_path: A folder or a hub id.
        dtype: float32|bfloat16, used where `config.dtype` is null.
        log_paths: One a server.
        device: cpu|cuda.
        key: None for a random one.
        ready: Called with each server once it is healthy.
        ranks: How many train on this host's GPUs.
    """
    require_vllm(device)
    refuse_wildcard(config.host)
    model, count = checked_model(model_path), len(log_paths)
    ports = _ports(config, count)
    devices = [devices_of(i, count, config.tensor_parallel, device, ranks) for i in range(count)]
    check_shared_memory(count, config.tensor_parallel)
    key = key or new_key()
    starts = [
        _Start(config, model, dtype, device, own, port, key, Path(log))
        for own, port, log in zip(devices, ports, log_paths, strict=True)
    ]
    try:
        for start in starts:
            start.begin()
        for start in starts:
            server = start.finish()
            if ready is not None:
                ready(server)
    except BaseException:
        stop_servers([start.server for start in starts if start.server is not None])
        raise
    return [start.finished for start in starts]


@dataclass
class _Start:
    """One server's start: again, at most PORT_TRIES times, if another process took a port while vLLM was loading."""

    config: ServerConfig
    model: str
    dtype: str
    device: str
    devices: str | None
    port: int  # 0: any
    key: str
    log_path: Path
    server: VllmServer | None = None

    @property
    def finished(self) -> VllmServer:
        assert self.server is not None
        return self.server

    def begin(self) -> None:
        """Start the process; UserError if the address can't be used."""
        host, held = self.config.host, None
        try:
            held = None if self.port else hold_port(host)
        except OSError as error:
            raise _unusable(self.port, host, str(error.strerror)) from error
        port = held.getsockname()[1] if held else self.port
        command = server_command(self.config, self.model, self.config.dtype or self.dtype, port, self.device)
        env = server_environment(self.key, self.model, self.device, self.devices)
        scratch = make_scratch()
        process = _popen(command, env | scratch.environment(), self.log_path, scratch.lock)
        self.server = VllmServer(process, f"http://{in_url(host)}:{port}", self.key, self.log_path, held, scratch)

    def finish(self) -> VllmServer:
        """The server once it is healthy and holds version 0. ServerError if it dies or takes too long."""
        for left in range(PORT_TRIES - 1, -1, -1):
            server = self.finished
            try:
                _wait_until_healthy(server, self.config.startup_timeout_s)
                break
            except ServerError:
                if not left or not port_was_taken(self.log_path):
                    raise
            print(f"nopsd: another process took a port of {server.url}'s: starting it again", file=sys.stderr)
            server.stop()
            if self.port and (why := why_unusable(self.port, self.config.host)):
                raise _unusable(self.port, self.config.host, why)
            self.begin()
        with server.client() as client:
            client.set_policy_version(INITIAL_VERSION)
            client.check()
        return server


def stop_servers(servers: Sequence[VllmServer]) -> None:
    """End them all, at the same time; returns when they are gone."""
    for server in servers:
        server.begin_stop()
    for server in servers:
        server.stop()


def _popen(command: list[str], env: dict[str, str], log_path: Path, kept: int) -> subprocess.Popen[bytes]:
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with open(log_path, "wb") as log:
        return subprocess.Popen(
            guardian.guarded(command),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=log_path.parent,
            start_new_session=True,
            pass_fds=(kept,),
        )


def refuse_wildcard(host: str) -> None:
    """UserError for an address that means every interface: the config must say who can reach a server."""
    if is_wildcard(host):
        raise UserError(
            f"server.host={host} would listen on every interface, and is no address to reach it by: give this host's "
            "address on the network that the trainer is on"
        )


def _ports(config: ServerConfig, count: int) -> list[int]:
    """`count` ports from server.port on, or 0 for each; UserError if a stated one can't be used."""
    stated = [config.port + i for i in range(count)] if config.port else [0] * count
    for port in stated:
        if why := why_unusable(port, config.host):
            raise _unusable(port, config.host, why)
    return stated


def _unusable(port: int, host: str, why: str) -> UserError:
    return UserError(
        f"server.port={port} on server.host={host} can't be used ({why}): "
        "stop what listens there, or set server.port=0 for any free port"
    )


def require_vllm(device: str) -> None:
    """UserError naming the extra to install if vLLM is absent."""
    if importlib.util.find_spec("vllm") is None:
        extra = "cpu" if device == "cpu" else "gpu"
        raise UserError(
            f"vLLM, which serves the rollouts, isn't installed: pip install 'nopsd[{extra}]', "
            "or give the URL of a running server as server.url"
        )


def _wait_until_healthy(server: VllmServer, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    with httpx.Client(trust_env=False, timeout=2.0) as http:
        while time.monotonic() < deadline:
            server.check_alive()
            try:
                if http.get(f"{server.url}/health").status_code == 200:
                    server.release_port()
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.3)
    raise ServerError(
        f"the rollout server wasn't healthy within server.startup_timeout_s={timeout_s:g}; "
        f"{server_error(server.log_path)}"
    )
