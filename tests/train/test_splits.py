"""The same training however a step is cut, on real ZeRO-3 ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.engine]
HERE = Path(__file__).parent
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "1": {"whole": {}},
    "2": {"budget": {"micro_tokens": 70}, "shared": {"shared_by": 2, "micro": 3}},
    "4": {
        "shared": {"shared_by": 2, "micro_tokens": 70},
        "shared_padded": {"shared_by": 2, "micro_tokens": 70, "packing": False},
    },
}
LORA: dict[str, dict[str, dict[str, Any]]] = {
    "1": {"lora": {"lora": 2}},
    "2": {"lora_shared": {"lora": 2, "shared_by": 2, "micro_tokens": 90, "checkpointing": True}},
}
SPLITS = [f"{name}-{size}" for size in ("2", "4") for name in CASES[size]]
EXPORTED = ("whole", "shared")


@pytest.fixture(scope="module")
def runs(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory, run_ranks: Any) -> dict[str, Any]:
    return run(run_ranks, CASES, tiny_models / "tied", tmp_path_factory.mktemp("splits"))


def run(run_ranks: Any, cases: dict[str, dict[str, dict[str, Any]]], model: Path, out: Path) -> dict[str, Any]:
    """What each case left, by NAME-RANKS."""
    job = {"model": model, "out": out, "cases": cases, "exported": EXPORTED}
    run_ranks(HERE / "worker_splits.py", job, *cases, timeout=600)
    names = [f"{name}-{size}" for size in cases for name in cases[size]]
    return {n: torch.load(out / f"{n}.pt", weights_only=True) for n in names} | {"out": out}


def far(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative to what was expected; 0 if both are 0."""
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


@pytest.mark.parametrize("split", SPLITS)
def test_losses_and_statistics_are_equal(runs: dict[str, Any], split: str) -> None:
    """A row counted by two ranks, or by none, would show in the token counts and the sums."""
    check_rows(runs[split]["rows"], runs["whole-1"]["rows"])


def check_rows(rows: list[dict[str, float]], wholes: list[dict[str, float]]) -> None:
    assert len(rows) == 2
    for row, whole in zip(rows, wholes, strict=True):
        assert row["loss_tokens"] == whole["loss_tokens"]
        assert row["loss"] == pytest.approx(whole["loss"], rel=1e-6)
        for name in ("reverse_kl", "base_kl", "clip_frac", "mask_frac", "is_ratio", "logprob_gap"):
            assert row[name] == pytest.approx(whole[name], rel=1e-5, abs=1e-8), name


@pytest.mark.parametrize("split", SPLITS)
def test_gradients_are_equal(runs: dict[str, Any], split: str) -> None:
    """AdamW's mean gradient after each of two steps, which have unlike numbers of micro-batches: a boundary at the
    wrong one, or sums of a step left over for the next, would be another gradient. The second step starts from weights
    that differ by rounding."""
    check_means(runs[split]["means"], runs["whole-1"]["means"])


def check_means(means: list[dict[str, torch.Tensor]], wholes: list[dict[str, torch.Tensor]]) -> None:
    for found, whole, tolerance in zip(means, wholes, (1e-6, 1e-5), strict=True):
        assert found.keys() == whole.keys()
        for name, gradient in whole.items():
            assert far(found[name], gradient) <= tolerance, name


def test_the_number_of_micro_batches_changes_from_step_to_step(runs: dict[str, Any]) -> None:
    """Else the comparison above would not show what DeepSpeed's own counter does."""
    assert runs["whole-1"]["counts"] == [1, 1]
    for split in ("budget-2", "shared-4", "shared_padded-4"):
        first, second = runs[split]["counts"]
        assert first > second >= 1, split


def test_exports_are_equal(runs: dict[str, Any]) -> None:
    """The trained weights must leave as whole as they came, and the export's own check run on a split model."""
    whole = load_file(runs["out"] / "whole-1" / "export" / "model.safetensors")
    for size in (2, 4):
        shared = load_file(runs["out"] / f"shared-{size}" / "export" / "model.safetensors")
        assert shared.keys() == whole.keys()
        for name, weight in whole.items():
            assert far(shared[name], weight) < 1e-5, name


@pytest.mark.soak
def test_adapters_over_ranks_that_share_a_sequence(tiny_models: Path, tmp_path: Path, run_ranks: Any) -> None:
    """The student's own engine teaches here, so its split forward runs without gradient too."""
    found = run(run_ranks, LORA, tiny_models / "tied", tmp_path)
    check_rows(found["lora_shared-2"]["rows"], found["lora-1"]["rows"])
    check_means(found["lora_shared-2"]["means"], found["lora-1"]["means"])
    assert found["lora_shared-2"]["counts"][0] > found["lora_shared-2"]["counts"][1]
