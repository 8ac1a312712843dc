"""nopsd.train.metrics_log: a resumed run's log has each step once, and no number can crash it."""

import json
import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nopsd.errors import ArtefactError
from nopsd.train.metrics_log import MetricsLog, read_metrics
from nopsd.train.tracking.tensorboard_sink import TensorBoard


def log_to(folder, resume_step=0):
    return MetricsLog(folder, resume_step, [TensorBoard(folder, resume_step)])


def _scalars(folder, name):
    board = EventAccumulator(str(folder / "tb"))
    board.Reload()
    return [(e.step, e.value) for e in board.Scalars(name)]


def test_rows_stand_in_jsonl_and_tensorboard(tmp_path):
    with log_to(tmp_path) as log:
        log.log(0, {"loss": 0.5, "tokens": 7})
        assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 0, "loss": 0.5, "tokens": 7}]  # before close
        log.log(1, {"loss": 0.25})
    assert _scalars(tmp_path, "loss/loss") == [(0, 0.5), (1, 0.25)]


def test_resume_drops_the_steps_that_are_run_again(tmp_path):
    with log_to(tmp_path) as log:
        for step in range(5):
            log.log(step, {"loss": float(step)})
    with log_to(tmp_path, resume_step=3) as log:
        for step in range(3, 6):
            log.log(step, {"loss": 10.0 + step})
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(r["step"], r["loss"]) for r in rows] == [(0, 0), (1, 1), (2, 2), (3, 13), (4, 14), (5, 15)]
    assert _scalars(tmp_path, "loss/loss") == [(0, 0), (1, 1), (2, 2), (3, 13), (4, 14), (5, 15)]


def test_a_fresh_start_forgets_the_old_run(tmp_path):
    for loss in (1.0, 2.0):
        with log_to(tmp_path) as log:
            log.log(0, {"loss": loss})
    assert [r["loss"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [2.0]


def test_nonfinite_values_become_null_and_are_counted(tmp_path):
    with log_to(tmp_path) as log:
        log.log(0, {"loss": math.nan, "kl": math.inf, "entropy": 1.0})
        log.log(1, {"loss": 2.0})
        assert log.nonfinite == 2
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0], parse_constant=pytest.fail) == {
        "step": 0,
        "loss": None,
        "kl": None,
        "entropy": 1.0,
        "nonfinite": 2,
    }
    assert "nonfinite" not in json.loads(lines[1])
    assert _scalars(tmp_path, "loss/loss") == [(1, 2.0)]


def test_a_line_torn_by_a_kill_is_dropped_and_a_damaged_one_refused(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "loss": 1.0}\n{"step": 1, "lo')
    with log_to(tmp_path, resume_step=1) as log:
        log.log(1, {"loss": 3.0})
    assert [r["loss"] for r in read_metrics(path)] == [1.0, 3.0]
    path.write_text('{"step": 0}\nnonsense\n{"step": 1}\n')
    with pytest.raises(ArtefactError, match="line 2"):
        read_metrics(path)


class Broken:
    """A tracker whose service is gone."""

    closed = False

    def scalars(self, step, values):
        raise ConnectionError("no route")

    def close(self):
        Broken.closed = True


def test_a_tracker_that_fails_ends_no_training(tmp_path, caplog):
    """Broken if a web service that is down costs a run, or the other places lose numbers with it."""
    with MetricsLog(tmp_path, 0, [Broken(), TensorBoard(tmp_path, 0)]) as log:
        log.log(0, {"loss": 0.5})
        log.log(1, {"loss": 0.25})
    assert caplog.text.count("Broken is left out from here on: no route") == 1 and not Broken.closed
    assert _scalars(tmp_path, "loss/loss") == [(0, 0.5), (1, 0.25)] and len(read_metrics(log.path)) == 2
