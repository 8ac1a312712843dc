"""Adapters: their weights, their gradients and their draw, against the base model's."""

from __future__ import annotations

import pytest
import torch

from nopsd.config import LoraConfig
from nopsd.engine.lora import STUDENT, adapter_parameters, add_lora, computing_with, lora_layers, plain_weights
from nopsd.errors import ConfigError
from nopsd.rollout.weight_source import WeightSource
from tests.models import qwen3


def test_adapters_go_off_and_on_without_touching_gradients():
    """ZeRO-3's hooks hang on requires_grad: a switch that moves it would lose them."""
    lm = qwen3(0)
    add_lora(lm, LoraConfig(r=2), seed=1, with_teacher=True)
    before = {n: p.requires_grad for n, p in lm.named_parameters()}
    with computing_with(lm, None):
        assert {n: p.requires_grad for n, p in lm.named_parameters()} == before
        assert all(layer.disable_adapters for layer in lora_layers(lm).values())
    assert not any(layer.disable_adapters for layer in lora_layers(lm).values())
    assert {n for n, needed in before.items() if needed} == {n for n in before if ".default." in n}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_merged_weight_is_base_plus_scaled_product(dtype: torch.dtype):
    """W + (α/r)·B·A by plain products; every other weight untouched, and named as in the checkpoint."""
    lm = qwen3(0).to(dtype)
    named = {n: p.detach().clone() for n, p in lm.named_parameters()}
    add_lora(lm, LoraConfig(r=2, alpha=6, targets=["q_proj"]), seed=1)
    for parameter in adapter_parameters(lm, STUDENT).values():
        parameter.data.normal_(0, 0.3)
    own = adapter_parameters(lm, STUDENT)
    assert [w.name for w in plain_weights(lm)] == list(named)
    for name, merged in WeightSource(lm, is_sender=True).stream():
        assert merged is not None and merged.dtype == dtype
        layer = name.removesuffix(".weight")
        wanted = named[name].double()
        if layer.endswith("q_proj"):
            wanted = wanted + 3 * own[f"{layer}.lora_B.weight"].double() @ own[f"{layer}.lora_A.weight"].double()
        # Rounded once to the weight's 8 or 24 bits; the products' own float32 sums of two terms are in the 1e-5.
        once = 2**-8 if dtype == torch.bfloat16 else 2**-23
        torch.testing.assert_close(merged.double(), wanted, rtol=once, atol=1e-5)
    assert all(t is None for _, t in WeightSource(lm, is_sender=False).stream())


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens", "q_proj"], ["qproj"]])
def test_unfit_targets_are_refused_by_name(targets: list[str]):
    """An adapted head would not be seen by the fused loss; a misspelt name would train nothing."""
    with pytest.raises(ConfigError, match="train.lora.targets"):
        add_lora(qwen3(0), LoraConfig(r=2, targets=targets), seed=1)


def test_adapters_are_drawn_by_the_seed_and_leave_the_ranks_random_state():
    """Ranks have different random states, and must draw the same adapters."""
    drawn = []
    for state in (1, 2):
        lm = qwen3(0)
        torch.manual_seed(state)
        expected = torch.rand(1, generator=torch.Generator().manual_seed(state))
        add_lora(lm, LoraConfig(r=2), seed=5)
        assert torch.equal(torch.rand(1), expected)
        drawn.append({n: p.detach().clone() for n, p in adapter_parameters(lm, STUDENT).items()})
    assert all(torch.equal(drawn[0][n], t) for n, t in drawn[1].items())
