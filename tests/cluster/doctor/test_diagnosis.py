"""`nopsd doctor` on this host: what it says of a healthy configuration, and that it finds planted faults."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from nopsd.config import load_config
from nopsd.errors import ConfigError
from nopsd.tasks.doctor import doctor


def diagnosis(tmp_path: Path, *overrides: str) -> tuple[dict[str, Any], int]:
    text, code = doctor(load_config("lab", [f"run_dir={tmp_path / 'run'}", *overrides]), as_json=True)
    return json.loads(text), code


def errors(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(f["check"], f["message"]) for f in found["findings"] if f["level"] == "error"]


@pytest.mark.slow
def test_a_working_configuration_passes_and_is_explained(tmp_path: Path) -> None:
    """Else nobody can start by what `doctor` says; both prompts and the memory must be there to be read."""
    config = load_config("lab", [f"run_dir={tmp_path / 'run'}"])
    text, code = doctor(config)
    assert code == 0 and "0 errors" in text
    assert "student (" in text and "teacher (" in text and "student ids:" in text
    assert "memory of each of 2 training ranks" in text and "room for" in text
    assert list((tmp_path / "run").iterdir()) == []  # it leaves nothing behind


@pytest.mark.slow
def test_planted_faults_are_found_together(tmp_path: Path) -> None:
    """Several at once: a user corrects all of them before the next try, and not one a try."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found, code = diagnosis(
            tmp_path,
            "context.max_prompt=150",
            f"server.port={port}",
            f"rollout.urls=[http://127.0.0.1:{port}]",
            "train.micro=4096",
            "train.mlp_tile=0",
            "server.request_timeout_s=2",
        )
    printed = dict(errors(found))
    assert code == 1
    assert "fit context.max_prompt" in printed["prompts"]
    assert str(port) in printed["ports"] and str(port) in printed["server"]
    assert "train.micro" in printed["memory"]
    assert found["memory"]["total"] > found["hosts"]["localhost"]["memory"]["available"]


def test_a_missing_model_and_a_bad_hostfile_are_named(tmp_path: Path) -> None:
    found, code = diagnosis(tmp_path, "model.path=/nowhere/model")
    assert code == 1 and "no such folder" in dict(errors(found))["model"]
    hostfile = tmp_path / "hosts"
    hostfile.write_text("node1 slots=1\nnode2 slot=1\n")
    with pytest.raises(ConfigError, match="hosts:2"):
        diagnosis(tmp_path, f"dist.hostfile={hostfile}")
