"""The GRPO and SFT stages on the real thing: 2 ranks, ZeRO-3, a vLLM server, weight sync, the probe, the export."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nopsd.train.metrics_log import read_metrics
from tests.rounding import LOGPROB

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.engine]
WORKER = Path(__file__).with_name("worker_tokens_real.py")


@pytest.fixture(scope="module")
def trained(served_run: Callable[..., Path]) -> Path:
    actions = ("sft", "unserved", "ttrl", "intuitor", "ahead", "lying")
    return served_run(WORKER, *actions, timeout=1500)


@pytest.mark.parametrize("action", ["ttrl", "intuitor", "ahead"])
def test_grpo_trains_on_its_own_rollouts_with_the_servers_weights_equal_to_its_own(trained: Path, action: str):
    """A sync that doesn't take, or log-probs of other tokens, would show as a gap."""
    rows = read_metrics(trained / action / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2] == [row["policy_version"] for row in rows]
    for row in rows:
        print({name: round(value, 5) for name, value in row.items() if not name.startswith("guard")})
        if action != "ahead":
            assert row["logprob_gap_max"] < LOGPROB and row["ratio"] == pytest.approx(1, abs=LOGPROB)
        assert math.isfinite(row["loss"]) and row["skipped_fraction"] == 0
        assert 0 <= row["zero_advantage_share"] <= 1 and row["reward_std"] >= 0
    assert any(row["grad_norm"] > 0 for row in rows)
    if action == "ttrl":
        assert any(row["reward_mean"] > 0 and row["zero_advantage_share"] < 1 for row in rows)
    assert ("base_kl" in rows[0]) == (action == "intuitor")
    assert "probe/unparsed_share" in rows[1] and "probe/unparsed_share" in rows[2]
    if action == "ahead":
        assert [row["staleness"] for row in rows] == [0, 1, 1]
    if action == "intuitor":
        assert abs(rows[0]["base_kl"]) < 1e-8 < rows[2]["base_kl"] and all(row["reward_std"] > 0 for row in rows)


def test_a_sync_that_sends_nothing_is_found_out_on_every_rank_before_the_weights_move(trained: Path):
    """GRPO on stale responses would go on without a word: the clip hides how far they are."""
    for rank in (0, 1):
        assert "step 1: served and trained log-probs differ" in (trained / f"lying{rank}.txt").read_text()


def test_sft_lowers_its_loss_and_needs_no_server_but_for_the_probe(trained: Path):
    """The probed run and the one without a client must train alike: the probe only looks."""
    served, alone = (read_metrics(trained / name / "metrics.jsonl") for name in ("sft", "unserved"))
    print([row["loss"] for row in served])
    assert served[0]["loss"] > 0 and [row["loss"] for row in served] == [row["loss"] for row in alone]
    assert [("probe/unparsed_share" in row) for row in served] == [False, True, True]
    assert not any("probe/unparsed_share" in row for row in alone)


@pytest.mark.parametrize("action", ["ttrl", "intuitor", "sft"])
def test_the_export_loads_and_differs_from_the_base(trained: Path, lab_model_dir: Path, action: str):
    """An export of the base's weights would make every method look like no method."""
    from transformers import AutoModelForCausalLM

    found, base = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
        for folder in (trained / action / "export", lab_model_dir)
    )
    assert any(not torch.equal(weight, base[name]) for name, weight in found.items())
    assert all(weight.isfinite().all() for weight in found.values())
