"""kill -9 of one rank or all, at random places and moments: what comes out is the unbroken run, to the last bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nopsd.train.metrics_log import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.engine]
HERE = Path(__file__).parent
# Place, which of its visits, whether a file may be torn, whether rank 0 alone gets there.
TRAINING = (
    ("engines", (1,), False, False),
    ("load", (1,), False, False),
    ("rollout", (1, 2, 3), False, False),
    ("teacher", (1, 2, 3), False, False),
    ("step", (1, 2, 3), False, False),
    ("metrics", (1, 2, 3), False, False),
    ("shard", (1, 2), True, False),
    ("rank_state", (1,), True, False),
    ("hashes", (1, 2), False, False),
    ("mark", (1,), True, True),
    ("remove", (1, 2), False, True),
)
EXPORT = (("export", (1,), False, False), ("weights", (1,), True, True), ("verify", (1,), False, False))
SHORT = [
    {"where": "step", "nth": 2, "victims": [1], "after_s": 0.02},  # nothing saved yet
    {"where": "shard", "nth": 4, "victims": [0, 1], "torn": True, "all": True},  # the second checkpoint's optimizer
    {"where": "weights", "nth": 1, "victims": [0], "torn": True, "all": True},  # the export
]
SEED, KILLS_IN_TRAINING, STEPS = 20, 21, 32


def random_kill(source: random.Random, places: tuple[Any, ...]) -> dict[str, Any]:
    where, visits, tearable, main_only = source.choice(places)
    torn = tearable and source.random() < 0.5
    return {
        "where": where,
        "nth": source.choice(visits),
        "torn": torn,
        "all": source.random() < 0.5,
        "victims": [0] if main_only else source.choice([[0], [1], [0, 1]]),
        "after_s": 0.0 if torn else round(source.uniform(0, 0.05), 4),
    }


def random_plan(seed: int) -> list[dict[str, Any]]:
    """First one that leaves a checkpoint to load, then any; the export's at the end, which only then is reached."""
    source = random.Random(seed)
    first = {"where": "step", "nth": 4, "victims": [0, 1], "after_s": 0.01, "all": True}
    training = [random_kill(source, TRAINING) for _ in range(KILLS_IN_TRAINING)]
    return [first, *training, *(random_kill(source, (place,)) for place in EXPORT)]


def run(
    tmp_path: Path, models: Path, kills: list[dict[str, Any]], steps: int, timeout: float, ahead: int = 0
) -> list[dict[str, Any]]:
    job = tmp_path / "job.json"
    settings = {"models": str(models), "out": str(tmp_path), "steps": steps, "kills": kills, "ahead": ahead}
    job.write_text(json.dumps(settings))
    with open(tmp_path / "log", "w") as log:
        subprocess.run(
            [sys.executable, HERE / "worker_kills.py", job],
            cwd=HERE.parents[1],
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
            timeout=timeout,
            check=False,
        )
    starts: list[dict[str, Any]] = json.loads((tmp_path / "starts.json").read_text())
    assert len(starts) == len(kills) + 2, (tmp_path / "log").read_text()[-6000:]
    return starts


def check(out: Path, starts: list[dict[str, Any]], steps: int) -> None:
    whole, *broken, last = starts
    log = (out / "log").read_text()[-6000:]
    for start in broken:
        assert -signal.SIGKILL in start["exit"], start  # else the kill was never delivered
        assert not all(code == 0 for code in start["exit"])
    assert whole["exit"] == last["exit"] == [0, 0], (last, log)
    check_asked(starts)
    rows = [[without_times(row) for row in read_metrics(out / n / "metrics.jsonl")] for n in ("whole", "broken")]
    assert [row["step"] for row in rows[0]] == list(range(steps))
    assert rows[0] == rows[1]
    exports = [(out / name / "export" / "model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert exports[0] == exports[1]


def check_asked(starts: list[dict[str, Any]]) -> None:
    """Weights before the first rollout, of the step it starts from, though the server may hold later ones."""
    resumed = 0
    for start in starts:
        if not start["asked"]:
            continue
        first, *rest = start["asked"]
        assert first.startswith("push "), start
        asked = [line for line in rest if line.startswith("ask ")]
        assert all(a.split()[1] == a.split()[3] for a in asked), start
        assert not asked or asked[0].split()[1] == first.split()[1], start
        resumed += first != "push 0"
    assert resumed > 0


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith(("time/", "memory/", "speed/"))}


def test_three_kills_later_the_losses_and_the_export_are_the_unbroken_runs(tiny_models: Path, tmp_path: Path):
    """Broken if any state of weights, moments, average, data order or seeds is lost, or a torn file is believed."""
    check(tmp_path, run(tmp_path, tiny_models, SHORT, 5, 400), 5)


@pytest.mark.soak
def test_after_many_kills_at_random_places_the_run_is_still_the_unbroken_one(tiny_models: Path, tmp_path: Path):
    """At least 20 kills in rollout, forward, step, checkpoint writing, loading and export; the seed is in the name."""
    plan = random_plan(SEED)
    assert len(plan) >= 20
    check(tmp_path, run(tmp_path, tiny_models, plan, STEPS, 3000), STEPS)
