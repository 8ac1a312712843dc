"""A training that collapses, on real 2-rank ZeRO-3 engines: it stops, exports the healthy weights, and says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.engine]
HERE = Path(__file__).parent
SOUND_STEPS, PATIENCE = 3, 3  # as worker_guards.py has them
KEY = "guard/max_repeated"


@pytest.fixture(scope="module")
def runs(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory, run_ranks: Any) -> tuple[Path, dict[str, Any]]:
    """The folder of worker_guards.py, and what each of its runs left."""
    out = tmp_path_factory.mktemp("guards")
    done = run_ranks(HERE / "worker_guards.py", {"models": tiny_models, "out": out}, 2)
    return out, {**json.loads((out / "found.json").read_text()), "output": done.output}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "export" / "model.safetensors")


def test_it_stops_after_patience_steps_and_logs_the_streak(runs: Any):
    """Broken if one rank goes on (a hang), the streak isn't in the log, or training goes on to its last step."""
    rows, stopped = runs[1]["stopped"]["rows"], runs[1]["stopped"]
    assert [row[KEY] for row in rows] == [0] * SOUND_STEPS + [1, 2, 3] and stopped["errors"] == ["", ""]
    assert rows[0]["repeated_4grams"] < 0.1 and rows[-1]["repeated_4grams"] == 1.0
    assert rows[-1]["distinct_4grams"] < 0.1 < rows[0]["distinct_4grams"]


def test_the_export_holds_the_last_healthy_checkpoint_though_newer_ones_were_saved(runs: Any):
    """One newest is kept: broken if it pushed the healthy one out, or the collapsed weights are exported."""
    out, found = runs
    assert found["stopped"]["left"] == ["step_00000003", "step_00000005"]
    assert found["stopped"]["record"]["steps"] == SOUND_STEPS == found["short"]["record"]["steps"]
    kept, short = weights(out / "stopped"), weights(out / "short")
    assert all(torch.equal(tensor, short[name]) for name, tensor in kept.items())
    assert found["short"]["record"]["stopped"] is None


def test_the_reason_is_in_the_record_on_the_console_and_in_the_log(runs: Any):
    found = runs[1]
    stop = found["stopped"]["record"]["stopped"]
    assert stop["step"] == SOUND_STEPS + PATIENCE
    assert "guard.max_repeated" in stop["reason"] and "3 steps in a row" in stop["reason"]
    assert found["progress"][3:] == [
        [4, {**found["progress"][3][1], "guard": "max_repeated 1/3"}],
        [5, {**found["progress"][4][1], "guard": "max_repeated 2/3"}],
    ]
    assert "guard" not in found["progress"][2][1]
    assert found["output"].count("step 3: share of repeated 4-grams 1, above the limit of 0.5") == 4  # a run, one rank
    assert "exporting the checkpoint of step 3" in found["output"]


def test_killed_in_the_middle_of_a_streak_it_stops_at_the_same_step(runs: Any):
    """Broken if a resume forgets the streak, or the baselines."""
    found = runs[1]
    assert [row[KEY] for row in found["killed"]["rows"]] == [0, 0, 0, 1, 2] and "Killed" in found["killed"]["errors"][0]
    assert [row[KEY] for row in found["resumed"]["rows"]] == [3]
    assert found["resumed"]["record"]["stopped"] == found["stopped"]["record"]["stopped"]
    assert found["resumed"]["record"]["steps"] == SOUND_STEPS


def test_a_finished_stop_is_up_to_date(runs: Any):
    """Broken if the same command trains again into the collapse, or is refused as another run."""
    assert runs[1]["again"]["rows"] == [] and runs[1]["again"]["errors"] == ["", ""]
    assert runs[1]["again"]["record"] == runs[1]["stopped"]["record"]


def test_the_best_of_the_healthy_checkpoints_is_taken_where_a_best_is_kept(runs: Any):
    """Looping responses have the smallest loss by far or not: broken if a checkpoint of the collapse can be best."""
    best, losses = runs[1]["best"], [row["loss"] for row in runs[1]["best"]["rows"]]
    assert best["record"]["steps"] == 1 + min(range(SOUND_STEPS), key=losses.__getitem__)
    assert best["record"]["stopped"]["step"] == SOUND_STEPS + PATIENCE


def test_without_a_healthy_checkpoint_every_rank_says_so_and_nothing_is_exported(runs: Any):
    found = runs[1]["none"]
    assert found["record"] is None and found["left"] == []
    for error in found["errors"]:
        assert error.startswith("UserError") and "guard.max_repeated" in error and "guard.stop=false" in error
