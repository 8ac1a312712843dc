"""`nopsd push` against a stand-in of the hub's API (tests/tasks/hub.py), not against the hub itself.

Broken if a user's weights arrive incomplete, in public, or with the token in what is printed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from nopsd import cli
from nopsd.config import load_config, to_yaml
from nopsd.files import write_json, write_jsonl

from .hub import Hub, running_hub

TOKEN = "hf_standInTokenOfNobody"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub(TOKEN) as found:
        yield found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose training is done, with small files for weights."""
    root = tmp_path / "run"
    root.mkdir()
    (root / "config.yaml").write_text(to_yaml(load_config("lab", [f"run_dir={root}"])))
    write_jsonl(root / "data" / "pool.jsonl", [])
    write_json(root / "data" / "data.json", {})
    write_json(root / "select" / "selected.json", {"uids": [], "threshold": None, "stats": {"pool": 3, "selected": 1}})
    export = root / "train" / "export"
    write_json(export / "nopsd_export.json", {"steps": 3, "base_model": "/home/me/model"})
    write_json(export / "config.json", {"model_type": "qwen3"})
    (export / "model.safetensors").write_bytes(b"weights " * 1000)
    return root


def push(hub: Hub, *words: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: the hub's client reads its environment once."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    env |= {"HF_HOME": str(Path(words[0]).parent / "hf")} | ({"HF_TOKEN": token} if token else {})
    command = [sys.executable, "-m", "nopsd", "push", *words]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)


def test_the_export_arrives_whole_and_private(hub: Hub, run: Path) -> None:
    done = push(hub, str(run), "me/lab-biology")
    assert done.returncode == 0, done.stderr
    files, export = hub.files("me/lab-biology"), run / "train" / "export"
    assert set(files) == {"README.md", "config.json", "model.safetensors"}, "nopsd_export.json names local folders"
    for name, data in files.items():
        assert data == (export / name).read_bytes(), name
    assert hub.repos["me/lab-biology"]["private"] is True
    assert (
        files["README.md"].decode().startswith("---\n") and "library_name: transformers" in files["README.md"].decode()
    )
    assert all(TOKEN not in json.dumps(request) for request in hub.requests)
    assert TOKEN not in (export / "README.md").read_text()
    assert "me/lab-biology" in done.stdout and TOKEN not in done.stdout + done.stderr
    public = push(hub, str(run), "--to", "me/shown", "--public", "--revision", "v1")
    assert public.returncode == 0, public.stderr
    assert not hub.repos["me/shown"]["private"] and set(hub.files("me/shown", "v1")) == set(files)


def test_a_refused_token_is_told_and_not_shown(hub: Hub, run: Path) -> None:
    wrong = "hf_wrongTokenOfNobody"
    done = push(hub, str(run), "me/x", token=wrong)
    assert done.returncode == 1 and "the token is not valid: log in again" in done.stderr
    assert wrong not in done.stdout + done.stderr and "Traceback" not in done.stderr
    for file in [p for p in run.rglob("*") if p.is_file() and p.stat().st_size < 10**6]:
        assert wrong.encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("words", "token", "said"),
    [
        (["me/x"], None, "set HF_TOKEN, or run `hf auth login`"),
        ([], TOKEN, "say where to: nopsd push RUN OWNER/NAME"),
        (["--to", "x"], TOKEN, "x: a hub repository is OWNER/NAME"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_sent(
    run: Path,
    words: list[str],
    token: str | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HOME", str(run.parent / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(HfApi, "create_repo", _never)
    assert cli.main(["push", str(run), *words]) == 1
    assert said in capsys.readouterr().err


def test_a_run_without_an_export_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "train" / "export" / "nopsd_export.json").unlink()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(HfApi, "create_repo", _never)
    assert cli.main(["push", str(run), "me/x"]) == 1
    assert "has no exported model" in capsys.readouterr().err


def _never(*_: object, **__: object) -> None:
    raise AssertionError("the hub was asked")
