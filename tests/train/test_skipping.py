"""A loss or gradient that is not finite, on one rank of two: nothing moves, it is logged, and too many end the run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from nopsd.files import read_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.engine]
HERE = Path(__file__).parent
SKIPPED = [1, 3, 5, 6]  # worker_skips.POISON; the run ends at 6, the second in a row


@pytest.fixture(scope="module")
def poisoned(
    tiny_models: Path, tmp_path_factory: pytest.TempPathFactory, run_ranks: Any
) -> tuple[Path, dict[str, Any], str]:
    out = tmp_path_factory.mktemp("skips")
    done = run_ranks(HERE / "worker_skips.py", {"models": tiny_models, "out": out}, 2)
    found = {dtype: torch.load(out / f"{dtype}.pt", weights_only=True) for dtype in ("float32", "bfloat16")}
    return out, found, done.output


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_that_is_not_finite_on_one_rank_moves_neither_weights_nor_moments_nor_average(poisoned: Any, dtype: str):
    """Broken if DeepSpeed takes a step whose loss is infinite and whose gradient isn't, or one rank alone skips."""
    path = poisoned[1][dtype]["path"]
    assert len(path) == (7 if dtype == "float32" else 4)
    for step in range(1, len(path)):
        same = [torch.equal(t, path[step][name]) for name, t in path[step - 1].items()]
        assert all(same) if step in SKIPPED else not any(same), step
        assert all(t.isfinite().all() for t in path[step].values()), step


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_they_are_counted_and_the_log_names_their_questions(poisoned: Any, dtype: str):
    """Broken if the user can't tell which questions did it: the ones of the micro-batch, on whichever rank it was."""
    out, found, said = poisoned
    rows = found[dtype]["rows"]
    steps = 6 if dtype == "float32" else 4
    assert [round(row["skipped_fraction"] * (i + 1)) for i, row in enumerate(rows)] == [0, 1, 1, 2, 2, 3][:steps]
    assert [i for i, row in enumerate(rows) if math.isnan(row["grad_norm"])] == [1, 3, 5][: steps // 2]
    kept = read_jsonl(out / dtype / "skipped.jsonl")
    skipped = SKIPPED if dtype == "float32" else SKIPPED[:2]
    assert [row["step"] for row in kept] == skipped
    on_0, on_1 = found[dtype]["hits"]
    suspects = [on_1[0], [], *on_1[1:], *on_0[1:]]
    assert [row["not_finite"] for row in kept] == [sorted(uids) for uids in suspects]
    assert all(len(row["uids"]) == 4 and set(row["not_finite"]) <= set(row["uids"]) for row in kept)
    assert "step 1 was skipped, for the loss of " + ", ".join(sorted(on_1[0])) in said
    assert "step 3 was skipped, for the gradient" in said


def test_too_many_in_a_row_end_the_run_on_every_rank_and_the_checkpoint_before_is_whole(poisoned: Any):
    """Broken if a run trains on nothing for ever, or if the count begins anew with every restart."""
    found = poisoned[1]["float32"]
    assert all("2 steps in a row were skipped (train.max_skipped=2)" in error for error in found["errors"])
    assert (found["from"], found["skipped"]) == (6, 3)
    still, repaired = found["went_on"]
    assert all("train.max_skipped=2" in error for error in still["errors"]) and not still["rows"]
    assert repaired["errors"] == ["", ""]
    assert len(repaired["rows"]) == 2 and all(math.isfinite(row["loss"]) for row in repaired["rows"])
