"""Objectives with auxiliary distributions, clips and supports on real ZeRO-3 engines: equal at 1 and 2 ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.rounding import GRADIENT, NOTHING, ZERO

pytestmark = pytest.mark.slow
WORKER = Path(__file__).with_name("worker_objectives.py")
CASES = ("pmi", "contrast", "drift", "ttpo", "retain", "learn", "protect", "base_alone")


@pytest.fixture(scope="module")
def runs(
    deepspeed_run: Callable[..., Any], tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, dict[str, Any]]:
    """By ranks and case: 1 rank with micro-batches of 4, 2 ranks with micro-batches of 1."""
    found = {}
    for ranks, micro in ((1, 4), (2, 1)):
        out = tmp_path_factory.mktemp(f"objectives{ranks}")
        deepspeed_run(WORKER, tiny_models, out, micro, *CASES, ranks=ranks, timeout=400)
        found[ranks] = {case: torch.load(out / f"{case}.pt", weights_only=True) for case in CASES}
    return found


@pytest.mark.parametrize("case", CASES[:5])
def test_losses_gradients_and_log_do_not_depend_on_ranks_and_micro_batches(runs, case):
    """An auxiliary prompt paired with another rollout, or a mask that looks at its micro-batch alone, shows here."""
    one, two = runs[1][case], runs[2][case]
    names = ("loss", "reverse_kl", "base_kl", "clip_frac", "neg_frac", "mask_frac", "is_ratio")
    for row, other in zip(one["rows"], two["rows"], strict=True):
        assert [other[name] for name in names] == pytest.approx([row[name] for name in names], abs=1e-5, rel=1e-5)
    for name, gradient in one["gradient"].items():
        assert float(gradient.norm()) > 0, name
        assert float((gradient - two["gradient"][name]).norm()) < 2 * GRADIENT * float(gradient.norm()) + NOTHING, name
    assert len({round(row["loss"], 4) for row in one["rows"]}) == 3


def test_every_part_took_part(runs):
    """The invariance above would hold for parts that are never computed."""
    pmi, contrast = runs[2]["pmi"]["rows"], runs[2]["contrast"]["rows"]
    assert abs(pmi[0]["base_kl"]) < ZERO < 1e-4 < pmi[-1]["base_kl"]  # the student starts as the base, and leaves it
    assert all(0 < row["is_ratio"] < 1.5 for row in pmi)
    assert any(0 < row["clip_frac"] < 1 for row in contrast) and any(0 < row["mask_frac"] < 1 for row in contrast)


def test_a_response_that_drifts_counts_less(runs):
    """Canned log-probs of −5 to −7 against a random teacher's −5.7: some tokens lose weight, and none gains any."""
    assert all(0.1 < row["drift_weight"] < 1 for row in runs[2]["drift"]["rows"])
    assert runs[1]["drift"]["rows"][0]["drift_weight"] == pytest.approx(runs[2]["drift"]["rows"][0]["drift_weight"])


def test_rollouts_that_agree_are_distilled_and_others_pushed_down(runs):
    """Votes of four rollouts a question, three of them trained on: of each step's questions some have both sides."""
    for row in runs[2]["ttpo"]["rows"]:
        assert row["trained_responses"] == 12 and row["skipped_share"] == 0 and 0.25 <= row["majority_share"] <= 0.5
    assert runs[1]["ttpo"]["rows"][0]["loss_tokens"] == runs[2]["ttpo"]["rows"][0]["loss_tokens"]


def test_questions_from_elsewhere_hold_the_student_to_the_base_model(runs):
    """Half of each batch: at first the student is the base and nothing is lost on them; then it is measured."""
    first, *later = runs[2]["retain"]["rows"]
    assert abs(first["retain_kl"]) < ZERO < 1e-3 < first["loss"] and all(row["retain_kl"] > 1e-6 for row in later)
    assert first["demos_kept_mean"] == 1, "two of four show demonstrations, two of three each"
    assert [row["retain_kl"] for row in runs[1]["retain"]["rows"]] == pytest.approx(
        [row["retain_kl"] for row in runs[2]["retain"]["rows"]], abs=1e-5
    )


@pytest.mark.parametrize("case", ["learn", "protect"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_neurons_that_are_held_stay_what_they_are_to_the_bit(runs, case, ranks):
    """In the float32 master and in the weights computed with (bfloat16 of `protect`); what is learned moves."""
    run, learned = runs[ranks][case], (torch.arange(2 * 96) % 3 == 0).view(2, -1)
    for name, before in run["before"].items():
        after = run["after"][name]
        if ".mlp." not in name:
            assert torch.equal(before, after) == (case == "learn"), name
            continue
        rows = learned[int(name.split("layers.")[1].split(".")[0])]
        sides = (before, after) if "down" not in name else (before.T, after.T)
        assert torch.equal(sides[0][~rows], sides[1][~rows]), name
        assert all(not torch.equal(a, b) for a, b in zip(sides[0][rows], sides[1][rows])), name
        assert torch.equal(run["seen"][name], after.to(run["seen"][name].dtype)), name


def test_with_the_base_on_top_there_is_still_nothing_to_learn(runs):
    """Teacher = base = student at step 0: base rows one off, or another prompt's, would give a loss."""
    for ranks in (1, 2):
        first = runs[ranks]["base_alone"]["rows"][0]
        assert abs(first["loss"]) < ZERO and abs(first["base_kl"]) < ZERO
