"""Servers that can't start: if these fail, a user waits for minutes, or gets a traceback."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
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
    start_server(config, str(model), "float32", tmp_path / "server.log")


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
