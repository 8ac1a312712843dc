"""A server's temporary files: if these fail, sockets pile up in /tmp, or a long TMPDIR ends a run in a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nopsd.cluster.servers import scratch
from nopsd.cluster.servers.scratch import LOCK, PREFIX, base_folder, make_scratch, sweep

HOLD = "from nopsd.cluster.servers.scratch import make_scratch; import time; print(make_scratch().path, flush=True); {}"


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scratch, "base_folder", lambda: tmp_path)
    return tmp_path


def test_a_killed_commands_files_go_with_the_next_start_and_a_living_ones_stay() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        env = {**os.environ, "TMPDIR": folder}
        living = subprocess.Popen(
            [sys.executable, "-c", HOLD.format("time.sleep(60)")], stdout=subprocess.PIPE, text=True, env=env
        )
        assert living.stdout is not None
        kept = Path(living.stdout.readline().strip())
        killed = subprocess.run(
            [sys.executable, "-c", HOLD.format("import os; os.kill(os.getpid(), 9)")],
            capture_output=True,
            text=True,
            env=env,
        )
        left = Path(killed.stdout.strip())
        assert kept.is_dir() and left.is_dir() and left != kept
        sweep(Path(folder))
        assert kept.is_dir() and not left.exists()
        living.kill()
        living.communicate()


def test_only_our_own_folders_are_swept(base: Path) -> None:
    (base / f"{PREFIX}being00").mkdir()  # another length of name
    (base / f"{PREFIX}fresh000").mkdir()  # being made: no lock yet
    old = base / f"{PREFIX}old00000"
    old.mkdir()
    os.utime(old, (0, 0))
    elsewhere = base / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / LOCK).write_text("")
    (base / f"{PREFIX}link0000").symlink_to(elsewhere)
    sweep(base)
    left = {path.name for path in base.iterdir()}
    assert left == {f"{PREFIX}being00", f"{PREFIX}fresh000", f"{PREFIX}link0000", "elsewhere"}


def test_a_start_sweeps(base: Path) -> None:
    old = base / f"{PREFIX}old00000"
    old.mkdir()
    os.utime(old, (0, 0))
    made = make_scratch()
    assert made.path.is_dir() and not old.exists()
    made.remove()
    made.close()


def test_it_is_removed_with_the_server(base: Path) -> None:
    made = make_scratch()
    assert {"TMPDIR", "VLLM_RPC_BASE_PATH"} <= set(made.environment())
    (made.path / "socket").write_text("")
    made.remove()
    made.close()
    assert list(base.iterdir()) == []


def test_a_long_tmpdir_is_not_where_sockets_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's path has 107 bytes at most."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert base_folder() == Path("/tmp")
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert len(f"{base_folder()}/{PREFIX}12345678/{'0' * 36}") <= 107
