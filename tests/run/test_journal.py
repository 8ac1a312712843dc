"""The journal that `nopsd status` reads: a stage that failed, or a killed process, must not look as if it ran on."""

from __future__ import annotations

import platform
from pathlib import Path

import psutil
import pytest

from nopsd.errors import DataError, Stopped
from nopsd.run.journal import JOURNAL, is_alive, read_journal, read_progress, recorded


def outcome(root: Path, error: BaseException | None) -> tuple[str, str | None]:
    """What is written when a stage ends so."""
    try:
        with recorded(root, "rollout", 2):
            if error is not None:
                raise error
    except (Exception, KeyboardInterrupt) as raised:
        assert raised is error, "the error itself must reach the command line"
    end = read_journal(root)[-1]
    return end["outcome"], end["error"]


def test_each_end_is_told_apart(tmp_path: Path) -> None:
    assert outcome(tmp_path, None) == ("done", None)
    assert outcome(tmp_path, DataError("q.jsonl:3: no text: fill it in")) == (
        "failed",
        "q.jsonl:3: no text: fill it in",
    )
    assert outcome(tmp_path, ValueError("x")) == ("failed", "ValueError: x")
    assert outcome(tmp_path, Stopped("step 3 saved")) == ("interrupted", "step 3 saved")
    assert outcome(tmp_path, KeyboardInterrupt())[0] == "interrupted"
    assert [row["event"] for row in read_journal(tmp_path)] == ["begin", "end"] * 5


def test_progress_is_that_of_the_stage_asked_for(tmp_path: Path) -> None:
    assert read_progress(tmp_path, "neurons") is None
    with recorded(tmp_path, "neurons", 1) as report:
        report(3, 10, loss=1.0)
        report(4, 10)  # within a second: not written
        assert read_progress(tmp_path, "neurons")["done"] == 3
        report(10, 10)
    found = read_progress(tmp_path, "neurons")
    assert (found["done"], found["total"], found["first"]) == (10, 10, 3)
    assert read_progress(tmp_path, "train") is None


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    outcome(tmp_path, None)
    with open(tmp_path / JOURNAL, "a") as file:
        file.write('{"stage": "trai')
    assert len(read_journal(tmp_path)) == 2


@pytest.mark.parametrize(("change", "alive"), [({}, True), ({"created": 5.0}, False), ({"host": "elsewhere"}, None)])
def test_a_process_is_known_by_more_than_its_number(change: dict[str, object], alive: bool | None) -> None:
    """Numbers are used again: another program of today must not keep yesterday's run alive."""
    own = psutil.Process()
    assert is_alive({"pid": own.pid, "created": own.create_time(), "host": platform.node(), **change}) is alive
