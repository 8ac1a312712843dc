"""Starts, watches and stops the rollout server: vLLM's OpenAI-compatible API in processes of its own.

Input: `server` configuration, a model, a log file. Output: a `VllmServer` with `.url` and `.api_key`.
The server dies with us (see guardian.py), listens on `server.host` and answers nothing but /health
without its random key (see auth.py). The same code starts the CPU build and the GPU build.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import httpx

import nopsd
from nopsd.config import ServerConfig
from nopsd.errors import ServerError, UserError
from nopsd.rollout import guardian
from nopsd.rollout.auth import KEY_VARIABLE
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.weight_sync import choose_backend

MODEL_NAME = "policy"
# An exception's own line in vLLM's log, after `(Name pid=1)` and `ERROR date time [file:line]`.
ERROR_LINE = re.compile(r"(?:^|[])] )((?:\w+\.)*\w*(?:Error|Exception): .+)")
INITIAL_VERSION = 0
# Set by training launchers; vLLM would take them for its own.
LAUNCHER_VARIABLES = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "CROSS_RANK", "CROSS_SIZE", "LOCAL_SIZE",
    "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK",
)


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

    def stop(self) -> None:
        """End the server and all its processes; returns when they are gone. May be called twice."""
        assert self._process.stdin is not None
        self._process.stdin.close()
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


def start_server(
    config: ServerConfig, model_path: str, dtype: str, log_path: Path, device: str = "cpu"
) -> VllmServer:
    """Start vLLM on `model_path` (folder or hub id) and wait until it is healthy; its policy version is 0.

    `dtype`: float32|bfloat16, used where `config.dtype` is null. `device`: cpu|cuda. Raises UserError
    (vLLM not installed, no such model folder, port in use) before anything is started, and
    ServerError if the server dies or isn't healthy within `config.startup_timeout_s`.
    """
    require_vllm(device)
    model = _checked_model(model_path)
    port = free_port(config.host, config.port)
    key = secrets.token_urlsafe(32)
    log_path = Path(log_path)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    guard = [sys.executable, "-I", "-S", guardian.__file__]
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            [*guard, *server_command(config, model, config.dtype or dtype, port, device)],
            stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=_environment(key, model, device),
            cwd=log_path.parent, start_new_session=True,
        )
    server = VllmServer(process, f"http://{_bracketed(config.host)}:{port}", key, log_path)
    try:
        _wait_until_healthy(server, config.startup_timeout_s)
        with server.client() as client:
            client.set_policy_version(INITIAL_VERSION)
            client.check()
    except BaseException:
        server.stop()
        raise
    return server


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


def server_command(config: ServerConfig, model: str, dtype: str, port: int, device: str) -> list[str]:
    """vLLM's command line. The API key isn't on it: others could read it there."""
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model,
        "--served-model-name", MODEL_NAME, "--host", config.host, "--port", str(port), "--dtype", dtype,
        "--seed", str(config.seed), "--max-model-len", str(config.max_model_len),
        "--max-num-seqs", str(config.max_num_seqs), "--max-logprobs", "-1",
        "--tensor-parallel-size", str(config.tensor_parallel), "--uvicorn-log-level", "warning",
        "--middleware", "nopsd.rollout.auth.RequireKey",
        "--worker-extension-cls", "nopsd.rollout.vllm_plugin.WorkerExtension",
        "--weight-transfer-config", json.dumps({"backend": _transfer_backend(config, device)}),
    ]
    if device == "cpu":
        # Chunked prefill and per-request seeds don't go together in the CPU build (its engine dies).
        command += ["--enforce-eager", "--no-enable-chunked-prefill"]
        command += ["--kv-cache-memory-bytes", str(config.kv_cache_mib << 20)]
    else:
        command += ["--gpu-memory-utilization", str(config.gpu_memory_utilization)]
    return command


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


def _transfer_backend(config: ServerConfig, device: str) -> str:
    backend = choose_backend(config, device, config.host)
    return "gloo" if backend == "disk" else backend


def _checked_model(model_path: str) -> str:
    path = Path(model_path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{path} holds no config.json: give a model folder in the transformers format")
        return str(path.resolve())
    if path.is_absolute() or model_path.startswith("."):
        raise UserError(f"model folder {model_path} does not exist: check model.path")
    return model_path


def _environment(key: str, model: str, device: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if k not in LAUNCHER_VARIABLES}
    # An empty VLLM_CPU_KVCACHE_SPACE crashes the CPU build and a set one overrides our flag.
    env.pop("VLLM_CPU_KVCACHE_SPACE", None)
    env.update({KEY_VARIABLE: key, "VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"})
    source = str(Path(nopsd.__file__).resolve().parent.parent)
    env["PYTHONPATH"] = os.pathsep.join(p for p in (source, env.get("PYTHONPATH")) if p)
    if os.path.isdir(model):
        env["HF_HUB_OFFLINE"] = "1"
    if device == "cpu":
        env["TORCHDYNAMO_DISABLE"] = "1"  # else the first request for log-probs compiles for 18 s
    return env


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
