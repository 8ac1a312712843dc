"""Starts, watches and stops the rollout server: vLLM's OpenAI-compatible API in processes of its own.

Input: `server` configuration, a model, a log file. Output: a `VllmServer` with `.url` and `.api_key`.
The server dies with us (see guardian.py), listens on `server.host` and answers nothing but /health
without its random key (see auth.py). The same code starts the CPU build and the GPU build.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import httpx

from nopsd.config import ServerConfig
from nopsd.errors import ServerError, UserError
from nopsd.rollout import guardian
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.vllm_command import checked_model, devices_of, server_command, server_environment

# An exception's own line in vLLM's log, after `(Name pid=1)` and `ERROR date time [file:line]`.
ERROR_LINE = re.compile(r"(?:^|[])] )((?:\w+\.)*\w*(?:Error|Exception): .+)")
INITIAL_VERSION = 0


class VllmServer:
    """A running server. Use as a context manager, or call `stop()`; both end only its own processes."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, api_key: str, log_path: Path) -> None:
        self._process = process
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
            raise ServerError(f"the rollout server at {self.url} died (exit code {code}); {log_tail(self.log_path)}")

    def begin_stop(self) -> None:
        """Have the server end; `stop` waits for it."""
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

    def __enter__(self) -> VllmServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_server(config: ServerConfig, model_path: str, dtype: str, log_path: Path, device: str = "cpu") -> VllmServer:
    """Start vLLM on `model_path` (folder or hub id) and wait until it is healthy; its policy version is 0.

    `dtype`: float32|bfloat16, used where `config.dtype` is null. `device`: cpu|cuda. Raises UserError
    (vLLM not installed, no such model folder, port in use) before anything is started, and
    ServerError if the server dies or isn't healthy within `config.startup_timeout_s`.
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
) -> list[VllmServer]:
    """A server a log file, all on this host, at `config.port` and the ports after it (0: any), with one key.

    As `start_server`; all or none. `key`: theirs, None for a random one. `ready` is called with each one that is up.
    """
    require_vllm(device)
    refuse_wildcard(config.host)
    model, count = checked_model(model_path), len(log_paths)
    ports = _free_ports(config, count)
    devices = [devices_of(i, count, config.tensor_parallel, device) for i in range(count)]
    key = key or secrets.token_urlsafe(32)
    servers: list[VllmServer] = []
    try:
        for port, own, log_path in zip(ports, devices, log_paths, strict=True):
            command = server_command(config, model, config.dtype or dtype, port, device)
            env = server_environment(key, model, device, own)
            servers.append(_start(command, env, f"http://{_bracketed(config.host)}:{port}", key, Path(log_path)))
        for server in servers:
            _wait_until_healthy(server, config.startup_timeout_s)
            with server.client() as client:
                client.set_policy_version(INITIAL_VERSION)
                client.check()
            if ready is not None:
                ready(server)
    except BaseException:
        stop_servers(servers)
        raise
    return servers


def stop_servers(servers: Sequence[VllmServer]) -> None:
    """End them all, at the same time; returns when they are gone."""
    for server in servers:
        server.begin_stop()
    for server in servers:
        server.stop()


def _start(command: list[str], env: dict[str, str], url: str, key: str, log_path: Path) -> VllmServer:
    log_path.parent.mkdir(parents=True, exist_ok=True)
    guard = [sys.executable, "-I", "-S", guardian.__file__]
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            [*guard, *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=log_path.parent,
            start_new_session=True,
        )
    return VllmServer(process, url, key, log_path)


def refuse_wildcard(host: str) -> None:
    """UserError for an address that means every interface: who can reach a server is to be said."""
    if host in ("", "0.0.0.0", "::"):
        raise UserError(
            f"server.host={host} would listen on every interface, and is no address to reach it by: give this host's "
            "address on the network that the trainer is on"
        )


def _free_ports(config: ServerConfig, count: int) -> list[int]:
    if config.port:
        return [free_port(config.host, config.port + i) for i in range(count)]
    ports: list[int] = []
    while len(ports) < count:
        port = free_port(config.host, 0)
        if port not in ports:
            ports.append(port)
    return ports


def require_vllm(device: str) -> None:
    """UserError naming the extra to install if vLLM is absent."""
    if importlib.util.find_spec("vllm") is None:
        extra = "cpu" if device == "cpu" else "gpu"
        raise UserError(
            f"vLLM, which serves the rollouts, isn't installed: pip install 'nopsd[{extra}]', "
            "or give the URL of a running server as server.url"
        )


def free_port(host: str, port: int) -> int:
    """`port`, or a free one for 0; UserError if it is in use or the host isn't ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"server.port={port} on server.host={host} can't be used ({error.strerror}): "
                "stop what listens there, or set server.port=0 for any free port"
            ) from error
        return probe.getsockname()[1]


def log_tail(path: Path, lines: int = 12) -> str:
    """The first error in a log and its last lines, for an error message."""
    text = path.read_text(errors="replace").splitlines()
    first = _first_error(text)
    shown = "\n".join([t for t in text if t.strip()][-lines:])
    return f"{f'first error: {first}; ' if first else ''}its log is {path}, ending in:\n{shown}"


def _first_error(text: list[str]) -> str | None:
    for number, line in enumerate(text):
        if found := ERROR_LINE.search(line):
            # pydantic names the cause in the line below.
            cause = text[number + 1 : number + 2] if "validation error" in found.group(1) else []
            return " ".join([found.group(1), *(re.sub(r"^\(\w+ pid=\d+\)", "", c).strip() for c in cause)])
    return None


def _wait_until_healthy(server: VllmServer, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    with httpx.Client(trust_env=False, timeout=2.0) as http:
        while time.monotonic() < deadline:
            server.check_alive()
            try:
                if http.get(f"{server.url}/health").status_code == 200:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.3)
    raise ServerError(
        f"the rollout server wasn't healthy within server.startup_timeout_s={timeout_s:g}; {log_tail(server.log_path)}"
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
