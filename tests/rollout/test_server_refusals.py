"""Starting a server that can't start: if these fail, a user waits for minutes, or gets a traceback."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from nopsd.config import ServerConfig
from nopsd.errors import ServerError, UserError
from nopsd.rollout import server as server_module
from nopsd.rollout.auth import KEY_VARIABLE, RequireKey
from nopsd.rollout.server import server_command, start_server


def start(tmp_path: Path, model: str | Path, **changes: object) -> None:
    config = replace(ServerConfig(max_model_len=64, kv_cache_mib=16), **changes)
    start_server(config, str(model), "float32", tmp_path / "server.log")


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path, model_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"server\.port={port} .*server\.port=0"):
            start(tmp_path, model_dir, port=port)
    assert not (tmp_path / "server.log").exists()


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist: check model\.path"):
        start(tmp_path, tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no config\.json"):
        start(tmp_path, tmp_path)


def test_without_vllm_the_extra_to_install_is_named(
    tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        server_module.importlib.util, "find_spec", lambda name, *a: None if name == "vllm" else real(name, *a)
    )
    with pytest.raises(UserError, match=r"nopsd\[cpu\]"):
        start(tmp_path, model_dir)


def test_a_server_not_healthy_in_time_is_ended(tmp_path: Path, model_dir: Path) -> None:
    before = set(psutil.Process(os.getpid()).children(recursive=True))
    with pytest.raises(ServerError, match=r"(?s)startup_timeout_s=2.*server\.log"):
        start(tmp_path, model_dir, startup_timeout_s=2)
    assert set(psutil.Process(os.getpid()).children(recursive=True)) <= before


@pytest.mark.slow
def test_a_server_that_dies_while_starting_shows_its_log(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "nonesuch", "architectures": ["Nonesuch"]}))
    with pytest.raises(ServerError, match=r"(?s)died \(exit code 1\); first error: .*nonesuch.*server\.log") as caught:
        start(tmp_path, model)
    assert "ending in" in str(caught.value)


def test_the_key_is_not_on_the_command_line_and_gpu_flags_differ() -> None:
    config = ServerConfig(tensor_parallel=2)
    on_cpu = server_command(config, "m", "float32", 1, "cpu")
    on_gpu = server_command(config, "m", "bfloat16", 1, "cuda")
    assert not any("key" in part for part in on_cpu + on_gpu)
    assert "--no-enable-chunked-prefill" in on_cpu and "--gpu-memory-utilization" not in on_cpu
    assert "--enforce-eager" not in on_gpu and on_gpu[on_gpu.index("--gpu-memory-utilization") + 1] == "0.45"
    assert on_gpu[on_gpu.index("--tensor-parallel-size") + 1] == "2"


def test_the_key_guard_fails_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        raise AssertionError("reached")

    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(RuntimeError, match=KEY_VARIABLE):
        RequireKey(app)


async def _ok(scope: dict, receive: object, send: object) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b"in"})  # type: ignore[operator]


@pytest.mark.parametrize(
    ("header", "path", "status"),
    [
        ("Bearer right", "/pause", 200),
        ("Bearer wrong", "/pause", 401),
        ("Bearer right2", "/pause", 401),
        ("right", "/pause", 401),
        (None, "/pause", 401),
        (None, "/health/", 401),
        (None, "//health", 401),
        (None, "/health", 200),
    ],
)
def test_the_key_guard_lets_in_the_key_alone(
    monkeypatch: pytest.MonkeyPatch, header: str | None, path: str, status: int
) -> None:
    import asyncio

    monkeypatch.setenv(KEY_VARIABLE, "right")

    async def ask() -> int:
        transport = httpx.ASGITransport(RequireKey(_ok))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            return (await http.post(path, headers={"Authorization": header} if header else {})).status_code

    assert asyncio.run(ask()) == status
