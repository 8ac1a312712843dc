"""Prompts read once, on two ZeRO-3 ranks: every kind of teacher, a resumed run, ranks that disagree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.rounding import SMALL_LOGPROB

HERE = Path(__file__).parent


def run_worker(run_ranks: Any, models: Path, out: Path, kinds: list[str], kinds_alone: bool) -> dict[str, Any]:
    job = {"models": models, "out": out, "kinds": kinds, "kinds_alone": kinds_alone}
    run_ranks(HERE / "worker_contexts.py", job, 2)
    loaded: dict[str, Any] = torch.load(out / "found.pt", weights_only=True)
    return loaded


@pytest.fixture(scope="module")
def found(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory, run_ranks: Any) -> dict[str, Any]:
    """What worker_contexts.py left: a second engine and the student's own, adapters on and off, three readings."""
    out = tmp_path_factory.mktemp("contexts")
    return run_worker(run_ranks, tiny_models, out, ["mixed", "lora", "lora_ema", "pmi"], False)


def check_kinds(found: dict[str, Any]) -> None:
    """States behind contexts and whole ones, after two steps: a context of older weights would show."""
    for kind, case in found.items():
        assert case["worst"] < SMALL_LOGPROB, kind
        assert len(case["rows"]) == 2 and all(row["loss"] > 0.1 for row in case["rows"])
        # pmi reads the bare question too, which is the student's prompt and so read whole
        readings = {"pmi": 2, "mixed": 2, "contrast": 2}.get(kind, 1)
        assert case["rows"][0]["context/fills"] >= 3 * readings  # three questions
        assert case["counts"]["context/hits"] > 0
        assert (case["counts"]["context/mib"] > 0) is (kind not in ("ema", "live", "lora_ema", "contrast")), kind


@pytest.mark.engine
@pytest.mark.slow
def test_teachers_and_readings_with_contexts_and_without(found: dict[str, Any]) -> None:
    """A context of other weights, of an older step's, or of another prompt would give other states."""
    check_kinds(found["kinds"])


@pytest.mark.engine
@pytest.mark.soak
def test_every_other_kind_too(tiny_models: Path, tmp_path: Path, run_ranks: Any) -> None:
    """The rest of the teachers, each on engines of its own."""
    check_kinds(run_worker(run_ranks, tiny_models, tmp_path, ["frozen", "ema", "live", "contrast"], True)["kinds"])


@pytest.mark.engine
@pytest.mark.slow
def test_a_resumed_run_has_the_unbroken_ones_losses(found: dict[str, Any]) -> None:
    """A resumed run goes on as if unbroken, with contexts over steps at one rollout a question, of which half fit; the
    resumed one reads them while responses are sampled (`teacher.early`)."""
    run = found["resume"]
    assert run["from"] == 4 and run["equal"] and 0 < run["held"] <= run["budget"]
    rows = [[without(row) for row in rows] for rows in (run["rows"][4:], run["again"])]
    assert rows[0] == rows[1]
    kept, anew = (sum(row["context/fills"] for row in rows) for rows in (run["rows"][4:], run["again"]))
    assert kept < anew


def without(row: dict[str, float]) -> dict[str, float]:
    left_out = ("time/", "context/", "memory/", "speed/")
    return {name: value for name, value in row.items() if not name.startswith(left_out)}


@pytest.mark.engine
@pytest.mark.slow
def test_ranks_that_disagree_run_as_many_forwards(found: dict[str, Any]) -> None:
    """Else ZeRO-3 waits for ever: one rank has contexts to fill, held or none, the other nothing at all."""
    main, other = found["disagree"]["counts"]
    assert [passes for passes, _ in main] == [passes for passes, _ in other] == [5, 3, 2]
    assert [fills for _, fills in main] == [2, 1, 0] and [fills for _, fills in other] == [0, 0, 0]
    assert max(found["disagree"]["worst"]) < 1e-4
