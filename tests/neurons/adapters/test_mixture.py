"""Mixtures of experts: only the experts that a token was sent to, each weighted by its router."""

import pytest
import torch

from nopsd.errors import UserError
from nopsd.neurons.adapters import find_sites, watch
from tests.neurons.adapters.scores import PROMPT, all_scores


def test_widths_of_mixed_models(build_family):
    """`mlp_only_layers` are as wide as an MLP, mixtures as all their experts; a token reaches two of five."""
    sites = find_sites(build_family("mixed"))
    assert (sites.widths, sites.active) == ((40, 24, 40), (16, 24, 16))


def test_mixtures_that_add_something_are_refused(build_family):
    with pytest.raises(UserError, match="layer 0: Qwen2MoeSparseMoeBlock.shared_expert: experts beside"):
        find_sites(build_family("qwen2_moe"))
    model = build_family("mixtral")
    block, forward = model.model.layers[1].mlp, model.model.layers[1].mlp.forward
    block.forward = lambda x: 2 * forward(x)
    with pytest.raises(UserError, match="output is not the weighted sum of its experts"):
        all_scores(model, "act_fn")


def test_a_mixture_runs_its_own_forward_again_after_the_watch(build_family):
    """And gives the same output while watched."""
    model = build_family("qwen3_moe")
    ids, outputs = torch.tensor([PROMPT]), []
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        with watch(find_sites(model), "act_fn", lambda activity: None):
            outputs.append(model(input_ids=ids).logits)
        outputs.append(model(input_ids=ids).logits)
    assert torch.allclose(outputs[0], expected, atol=1e-5)
    assert torch.equal(outputs[1], expected)
    assert "forward" not in model.model.layers[0].mlp.experts.__dict__
