"""SIGTERM to the launching command: passed to rank 0 as a file, answered by it, and not waited for without end."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from nopsd.cluster.rank_files import StopFile, answer_stop
from nopsd.engine.stopping import STOP_VARIABLE
from nopsd.errors import Stopped, UserError


def test_the_ranks_are_told_once_there_is_a_notice_and_their_answer_is_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Broken if a stop of an earlier start stops this one, or if a stage that ended early passes for done."""
    file = tmp_path / "train.stop.json"
    file.write_text(json.dumps({"message": "of an earlier start"}))
    stop = StopFile(file, 60)
    stop.relay()
    assert not file.exists()
    stop.raise_if_stopped("train")
    stop.notice.came_at = time.monotonic()
    stop.relay()
    assert file.exists()
    monkeypatch.setenv(STOP_VARIABLE, str(file))
    monkeypatch.setenv("RANK", "1")
    answer_stop(Stopped("by rank 1"))
    monkeypatch.setenv("RANK", "0")
    answer_stop(Stopped("after step 3"))
    with pytest.raises(Stopped, match="after step 3"):
        stop.raise_if_stopped("train")


def test_ranks_that_were_told_themselves_end_the_command_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The notice may reach the ranks alone: broken if the command went on to evaluate half a training."""
    stop = StopFile(tmp_path / "train.stop.json", 60)
    monkeypatch.setenv(STOP_VARIABLE, str(stop.file))
    monkeypatch.setenv("RANK", "0")
    answer_stop(Stopped("after step 2"))
    with pytest.raises(Stopped, match="after step 2"):
        stop.raise_if_stopped("train")


def test_a_stage_that_was_just_done_stops_the_command_and_a_step_that_hangs_ends_it(tmp_path: Path):
    stop = StopFile(tmp_path / "train.stop.json", 60)
    stop.notice.came_at = time.monotonic()
    with pytest.raises(Stopped, match="just done"):
        stop.raise_if_stopped("train")
    stop.notice.came_at -= 61
    with pytest.raises(UserError, match=r"60 s later \(dist\.timeout_s\)"):
        stop.relay()
