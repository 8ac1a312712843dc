"""The run folder's lock: if these fail, two commands write one folder's artefacts, or a dead one blocks it."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nopsd.config import load_config
from nopsd.errors import UserError
from nopsd.run import lock
from nopsd.run.lock import NAME, STALE_S, run_lock
from nopsd.run.runner import bring_up
from nopsd.run.session import Session
from nopsd.run.stage import Stages

HOLD = """
import sys, time
from pathlib import Path
from nopsd.run.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def held_by_another(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def stage_nothing(folder: Path) -> None:
    with Session(load_config("lab", [f"run_dir={folder}"])) as session:
        bring_up(Stages([]), session, [], None)


def left_by(folder: Path, age_s: float, **holder: object) -> None:
    (folder / NAME).write_text(json.dumps(holder))
    then = time.time() - age_s
    os.utime(folder / NAME, (then, then))


def test_a_second_command_is_refused_with_the_first_ones_host_and_process(tmp_path: Path) -> None:
    first = held_by_another(tmp_path)
    try:
        with pytest.raises(UserError, match=rf"is in use: process {first.pid} on {socket.gethostname()} "):
            stage_nothing(tmp_path)
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    stage_nothing(tmp_path)  # killed without notice: it holds nothing
    stage_nothing(tmp_path)


def test_what_a_command_does_itself_is_not_locked_out(tmp_path: Path) -> None:
    with run_lock(tmp_path), run_lock(tmp_path):
        stage_nothing(tmp_path)
    with run_lock(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(("age_s", "refused"), [(0, True), (STALE_S + 5, False)])
def test_a_command_on_another_host_holds_it_while_its_heart_beats(tmp_path: Path, age_s: float, refused: bool) -> None:
    left_by(tmp_path, age_s, host="elsewhere", pid=7, started=1.0)
    if refused:
        with pytest.raises(UserError, match="process 7 on elsewhere"):
            stage_nothing(tmp_path)
    else:
        stage_nothing(tmp_path)


def test_where_the_file_system_has_no_flock_a_living_process_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*arguments: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    own = lock._self()
    left_by(tmp_path, 0, **own)
    with pytest.raises(UserError, match=f"process {os.getpid()} on"):
        stage_nothing(tmp_path)
    left_by(tmp_path, 0, **{**own, "started": own["started"] - 5})  # another process had its number before
    stage_nothing(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"host": 1}'])
def test_a_damaged_lock_of_nobody_is_taken(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    os.utime(tmp_path / NAME, (0, 0))
    stage_nothing(tmp_path)
