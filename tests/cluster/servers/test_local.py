"""Servers that can't start: if these fail, a user waits for minutes, or gets a traceback."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from nopsd.cluster.servers import local as server_module
from nopsd.cluster.servers.local import start_server, start_servers
from nopsd.config import ServerConfig
from nopsd.errors import ServerError, UserError


def start(tmp_path: Path, model: str | Path, **changes: object) -> None:
    config = replace(ServerConfig(max_model_len=64, kv_cache_mib=16), **changes)
    start_server(config, str(model), "float32", tmp_path / "server.log").stop()


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path, lab_model_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"server\.port={port} .*server\.port=0"):
            start(tmp_path, lab_model_dir, port=port)
    assert not (tmp_path / "server.log").exists()


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist: check model\.path"):
        start(tmp_path, tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no config\.json"):
        start(tmp_path, tmp_path)


def test_without_vllm_the_extra_to_install_is_named(
    tmp_path: Path, lab_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        server_module.importlib.util, "find_spec", lambda name, *a: None if name == "vllm" else real(name, *a)
    )
    with pytest.raises(UserError, match=r"nopsd\[cpu\]"):
        start(tmp_path, lab_model_dir)


# vLLM in miniature: loads for a while, then binds as vLLM does; /health needs no key, everything else is answered.
FAKE = """
import http.server, socket, sys, time
port = int(sys.argv[sys.argv.index("--port") + 1])
time.sleep(0.3)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *a): pass
if len(open({starts!r}, "a+").write("x") and open({starts!r}).read()) <= {failures}:
    socket.create_server(("127.0.0.1", {taken}))
http.server.HTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


class Quiet:
    """A client of a server that is healthy and nothing else."""

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def set_policy_version(self, version: int) -> None: ...

    def check(self) -> None: ...


@pytest.fixture
def fake_vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Makes `server_command` start FAKE, whose first `failures` starts die of a port that is taken."""

    def install(failures: int = 0, taken: int = 0) -> Path:
        starts = tmp_path / "starts"
        code = FAKE.format(starts=str(starts), failures=failures, taken=taken)
        monkeypatch.setattr(
            server_module,
            "server_command",
            lambda c, m, d, port, dev: [sys.executable, "-c", code, "--port", str(port)],
        )
        monkeypatch.setattr(server_module.VllmServer, "client", lambda self: Quiet())
        return starts

    return install


def test_a_port_is_nobody_elses_while_vllm_loads(
    tmp_path: Path, lab_model_dir: Path, fake_vllm: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM binds some 8 s after it is started: whoever is given a free port in between must get another one."""
    fake_vllm()
    popen, refused = server_module._popen, []

    def take_first(command: list[str], *rest: object) -> object:
        with socket.socket() as other:
            try:
                other.bind(("127.0.0.1", int(command[-1])))
            except OSError as error:
                refused.append(error.errno)
        return popen(command, *rest)

    monkeypatch.setattr(server_module, "_popen", take_first)
    config = ServerConfig(startup_timeout_s=20)
    servers = start_servers(config, str(lab_model_dir), "float32", [tmp_path / "0.log", tmp_path / "1.log"])
    server_module.stop_servers(servers)
    assert refused == [errno.EADDRINUSE] * 2 and servers[0].url != servers[1].url


def test_a_server_whose_port_was_taken_is_started_again_on_another(
    tmp_path: Path, lab_model_dir: Path, fake_vllm: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server with SO_REUSEADDR takes even a held port: `Address already in use` ended the run."""
    starts, popen, thieves = fake_vllm(), server_module._popen, []

    def take_first(command: list[str], *rest: object) -> object:
        if not thieves:
            thieves.append(socket.create_server(("127.0.0.1", int(command[-1]))))
        return popen(command, *rest)

    monkeypatch.setattr(server_module, "_popen", take_first)
    config = ServerConfig(startup_timeout_s=20)
    with start_server(config, str(lab_model_dir), "float32", tmp_path / "server.log") as server:
        assert starts.read_text() == "xx" and not server.url.endswith(f":{thieves[0].getsockname()[1]}")
    thieves[0].close()


def test_ports_that_vllm_chooses_itself_are_tried_again_but_not_for_ever(
    tmp_path: Path, lab_model_dir: Path, fake_vllm: Callable[..., Path]
) -> None:
    """vLLM chooses ports for its engine long before it binds them; a fault that stays ends the start."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        starts = fake_vllm(failures=99, taken=other.getsockname()[1])
        with pytest.raises(ServerError, match=r"(?s)died .*Address already in use"):
            start(tmp_path, lab_model_dir, startup_timeout_s=20)
        assert starts.read_text() == "x" * server_module.PORT_TRIES


@pytest.mark.engine
def test_a_server_not_healthy_in_time_is_ended(tmp_path: Path, lab_model_dir: Path) -> None:
    before = set(psutil.Process(os.getpid()).children(recursive=True))
    with pytest.raises(ServerError, match=r"(?s)startup_timeout_s=2.*server\.log"):
        start(tmp_path, lab_model_dir, startup_timeout_s=2)
    assert set(psutil.Process(os.getpid()).children(recursive=True)) <= before


@pytest.mark.engine
@pytest.mark.slow
def test_a_server_that_dies_while_starting_shows_its_log(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "nonesuch", "architectures": ["Nonesuch"]}))
    with pytest.raises(ServerError, match=r"(?s)died \(exit code 1\); first error: .*nonesuch.*server\.log") as caught:
        start(tmp_path, model)
    assert "and ends" in str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_that_means_every_interface_is_refused(host: str, lab_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"server\.host=.* every interface"):
        start_servers(ServerConfig(host=host), str(lab_model_dir), "float32", [tmp_path / "log"])
