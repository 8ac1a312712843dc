"""The bounds of tests/rounding.py: not below what the formulas say, and still passed by small faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models import SMALL, qwen3
from tests.rounding import LOGPROB, SMALL_LOGPROB, ZERO, gap, zero

IDS = torch.randint(5, 250, (4, 48), generator=torch.Generator().manual_seed(0))


def lab(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def measured(load: Callable[[], Any]) -> tuple[Any, float, float, float]:
    """The model, its largest logit, its gap to float64, and that of the same with a layer's weights in bfloat16."""
    lm, faulty = load(), load()
    for parameter in faulty.model.layers[1].parameters():
        parameter.copy_(parameter.bfloat16())
    logits, exact = lm(IDS).logits, load().double()(IDS).logits.log_softmax(-1)
    sound, wrong = ((found.log_softmax(-1) - exact).abs().max() for found in (logits, faulty(IDS).logits))
    return lm, float(logits.abs().max()), float(sound), float(wrong)


@pytest.mark.parametrize(("kind", "bound"), [("lab", LOGPROB), ("small", SMALL_LOGPROB)])
def test_rounding_stays_within_and_a_layer_in_bfloat16_does_not(lab_model_dir: Path, kind: str, bound: float) -> None:
    lm, logit, sound, wrong = measured((lambda: lab(lab_model_dir)) if kind == "lab" else lambda: qwen3(0, SMALL))
    config = lm.config
    assert sound < gap(config.num_hidden_layers, config.intermediate_size, logit) <= bound < wrong


def test_equal_distributions_have_a_divergence_of_rounding_alone() -> None:
    """A teacher that reads one token more moves it a thousand times as much (0.1: tests/train/test_loop.py)."""
    assert zero(1024) < ZERO
