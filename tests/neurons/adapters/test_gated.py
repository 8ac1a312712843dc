"""Gated MLPs, however their activation is written; what does not fit an adapter is refused."""

import numpy as np
import pytest
from torch import nn

from nopsd.errors import UserError
from tests.neurons.adapters.scores import all_scores


@pytest.mark.parametrize("activation", [nn.SiLU(), nn.functional.silu])
def test_an_activation_shared_by_all_layers_or_a_function(build_family, activation):
    """Hooks on the activation module would be told of another layer's gate, or never."""
    model = build_family("qwen3")
    expected = all_scores(model, "act_fn")
    for layer in model.model.layers:
        del layer.mlp.act_fn
        layer.mlp.act_fn = activation
    assert all(np.array_equal(a, b) for a, b in zip(all_scores(model, "act_fn"), expected))


def test_an_mlp_whose_gate_is_used_in_another_way_is_refused(build_family):
    """Its activation would be guessed wrongly; the true down-projection input can still be had."""
    model = build_family("llama")
    mlp = model.model.layers[2].mlp
    mlp.forward = lambda x: mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)).clamp(max=0.01) * mlp.up_proj(x))
    with pytest.raises(UserError, match="LlamaMLP's down projection is not given act.gate. . up.*value=gated"):
        all_scores(model, "act_fn")
    assert np.isfinite(all_scores(model, "gated")[2]).all()
