"""train.ahead=1 on the real thing: two ZeRO-3 ranks and a vLLM server that samples while they train (soak)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nopsd.train.metrics_log import read_metrics
from tests.rounding import LOGPROB, LOSS

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.engine]
WORKER = Path(__file__).with_name("worker_ahead.py")


@pytest.fixture(scope="module")
def trained(served_run: Callable[..., Path]) -> Path:
    return served_run(WORKER, "on_policy", "ahead", "lying", timeout=580)


def test_later_steps_train_on_responses_one_version_old_and_the_ratio_sees_it(trained: Path):
    """Broken if a step waits for the new weights' responses after all, or the ratio compares with other log-probs."""
    on_policy, ahead = (read_metrics(trained / name / "metrics.jsonl") for name in ("on_policy", "ahead"))
    assert [row["staleness"] for row in on_policy] == [0, 0, 0, 0]
    assert [row["staleness"] for row in ahead] == [0, 1, 1, 1]
    assert ahead[0]["loss"] == pytest.approx(on_policy[0]["loss"], abs=LOSS)
    for row in (*on_policy, ahead[0]):
        assert row["logprob_gap_max"] < LOGPROB and row["is_ratio"] == pytest.approx(1.0, abs=1e-3)
    for row in ahead[1:]:
        assert row["logprob_gap_max"] > 1e-3 and 0 < row["is_ratio"] <= 2
        assert row["loss"] > 0 and row["grad_norm"] > 0
    for name, rows in (("on_policy", on_policy), ("ahead", ahead)):
        waits = ", ".join(f"{row['time/rollout']:.2f}" for row in rows)
        print(
            f"{name}: s a step spent on rollouts: {waits}; training: "
            + ", ".join(f"{row['time/teacher'] + row['time/student']:.2f}" for row in rows)
        )


def test_a_sync_that_sends_nothing_is_found_out_though_the_gap_proves_nothing(trained: Path):
    """Broken if train.ahead turned off the proof that the server holds the trainer's weights."""
    for rank in (0, 1):
        assert "served and trained log-probs differ" in (trained / f"lying{rank}.txt").read_text()
    assert len(read_metrics(trained / "lying" / "metrics.jsonl")) < 2
