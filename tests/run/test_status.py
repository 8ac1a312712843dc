"""`nopsd status`: what it says of a run's state, cost, end and errors, from folders as runs leave them."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import psutil
import pytest

from nopsd import cli
from nopsd.config import Config, load_config, to_yaml
from nopsd.files import write_json, write_jsonl
from nopsd.run.journal import JOURNAL, PROGRESS
from nopsd.run.status import RunStatus, status_of
from nopsd.stages.registry import STAGES
from nopsd.tasks.status import text

NOW = 10_000.0
GONE = {"pid": psutil.Process().pid, "created": 1.0, "host": platform.node()}


def alive() -> dict[str, Any]:
    own = psutil.Process()
    return {"pid": own.pid, "created": own.create_time(), "host": platform.node()}


def begin(stage: str, at: float, ranks: int = 1, **process: Any) -> dict[str, Any]:
    return {"stage": stage, "event": "begin", "at": at, "ranks": ranks, **(process or GONE)}


def end(stage: str, at: float, outcome: str = "done", error: str | None = None) -> dict[str, Any]:
    return {"stage": stage, "event": "end", "at": at, "outcome": outcome, "error": error}


def run_folder(root: Path, rows: list[dict[str, Any]], sealed: tuple[str, ...] = ()) -> Config:
    """A run's folder with this journal; `sealed`: the stages that are done."""
    write_jsonl(root / JOURNAL, rows)
    for stage in sealed:
        write_json(root / stage / "manifest.json", {"fingerprint": {}, "files": {}})
    config = load_config("lab", [f"run_dir={root}"])
    (root / "config.yaml").write_text(to_yaml(config))
    return config


def look(config: Config) -> RunStatus:
    return status_of(STAGES, config, NOW)


def test_a_running_stage_has_its_pace_and_the_run_an_end(tmp_path: Path) -> None:
    rows = [begin("data", 0.0), end("data", 10.0), begin("evaluate_base", 10.0), end("evaluate_base", 110.0)]
    rows += [begin("train", 9000.0, ranks=2, **alive())]
    config = run_folder(tmp_path, rows, ("data", "evaluate_base"))
    pace = {"first": 40, "since": 9400.0, "at": 10_000.0}
    write_json(tmp_path / PROGRESS, {"stage": "train", "done": 60, "total": 150, **pace})
    write_jsonl(tmp_path / "train" / "metrics.jsonl", [{"step": s, "time/teacher": 2.0, "loss": 1.0} for s in range(3)])
    found = look(config)
    train = next(stage for stage in found.stages if stage.name == "train")
    assert (found.state, train.state, train.seconds, train.rank_seconds) == ("running", "running", 1000.0, 2000.0)
    assert train.left_s == pytest.approx(90 * 600 / 20), "the pace is this attempt's, 20 steps in 600 s"
    assert train.parts == {"teacher": 6.0}
    assert found.left_s == pytest.approx(2700 + 100), "the last evaluation takes as long as the first"
    assert found.ends_at == NOW + found.left_s and found.not_estimated == ["rollout", "neurons"]
    assert found.rank_hours == pytest.approx((10 + 100 + 2000) / 3600)
    said = text(found)
    assert "60 of 150 (40 %), 45 min 00 s left" in said and "not estimated: rollout, neurons" in said


def test_the_last_error_is_told_with_its_remedy(tmp_path: Path) -> None:
    rows = [begin("data", 0.0), end("data", 10.0), begin("rollout", 10.0), end("rollout", 20.0, "failed", "an old one")]
    rows += [begin("rollout", 30.0), end("rollout", 40.0, "failed", "no server: start one")]
    config = run_folder(tmp_path, rows, ("data",))
    found = look(config)
    assert (found.state, found.error_stage, found.error) == ("failed", "rollout", "no server: start one")
    assert f"to go on:  nopsd run --config {tmp_path}/config.yaml" in text(found) and "2 attempts" in text(found)
    run_folder(tmp_path, [*rows, begin("rollout", 50.0), end("rollout", 60.0)], ("data", "rollout"))
    assert look(config).error is None, "what was corrected is no error"


def test_a_killed_process_is_not_running(tmp_path: Path) -> None:
    config = run_folder(tmp_path, [begin("neurons", 100.0)])
    write_json(
        tmp_path / PROGRESS, {"stage": "neurons", "done": 5, "total": 10, "first": 0, "since": 100.0, "at": 160.0}
    )
    found = look(config)
    assert found.state == "killed" and "ended without a word" in (found.error or "")
    assert found.seconds == 60.0, "it cost what it was heard of"


def test_a_run_from_before_the_journal_is_read_too(tmp_path: Path) -> None:
    config = run_folder(tmp_path, [], ("data", "rollout"))
    (tmp_path / "neurons").mkdir()
    found = look(config)
    assert [stage.state for stage in found.stages[:4]] == ["done", "done", "not yet", "begun"]
    assert found.state == "begun" and found.left_s is None


def test_a_finished_run_ends_now(tmp_path: Path) -> None:
    config = run_folder(tmp_path, [], STAGES.names)
    write_json(
        tmp_path / "train/export/nopsd_export.json", {"steps": 5, "stopped": {"step": 9, "reason": "no entropy"}}
    )
    found = look(config)
    assert found.state == "done" and "stopped after 9" in found.note and "end:" not in text(found)


def test_the_command_takes_a_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder(tmp_path, [begin("data", 0.0), end("data", 10.0)], ("data",))
    assert cli.main(["status", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run_dir"] == str(tmp_path) and found["stages"][0] == {
        "name": "data",
        "state": "done",
        "seconds": 10.0,
        "rank_seconds": 10.0,
        "attempts": 1,
        "done": None,
        "total": None,
        "left_s": None,
        "parts": {},
    }
    assert cli.main(["status", str(tmp_path / "none")]) == 1
    assert "has no config.yaml" in capsys.readouterr().err


def test_a_real_stage_leaves_its_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else everything above is about files that nobody writes."""
    assert cli.main(["data", "--preset", "lab", f"run_dir={tmp_path}"]) == 0
    found = status_of(STAGES, load_config("lab", [f"run_dir={tmp_path}"]))
    assert found.stages[0].state == "done" and found.stages[0].attempts == 1 and found.stages[0].seconds > 0
    assert cli.main(["data", "--preset", "lab", f"run_dir={tmp_path}"]) == 0
    assert status_of(STAGES, found_config := load_config("lab", [f"run_dir={tmp_path}"])).stages[0].attempts == 1
    assert found_config.run_dir == str(tmp_path)


def test_what_is_refused_before_any_work_is_told_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": f"Pick {i}", "options": ["x", "y"], "answer": "E"} for i in range(12)]
    write_jsonl(tmp_path / "q.jsonl", rows)
    data = ("data.name=file", f"data.path={tmp_path / 'q.jsonl'}", "data.domain=mine", f"run_dir={tmp_path / 'run'}")
    assert cli.main(["run", "--preset", "lab", *data]) == 1
    refused = capsys.readouterr().err
    found = status_of(STAGES, load_config("lab", list(data)))
    assert (found.state, found.error_stage) == ("failed", "evaluate_base")
    assert found.error is not None and "is not among its options" in found.error and found.error in refused
