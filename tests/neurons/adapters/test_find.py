"""Where a model keeps its MLPs: found inside a wrapper, refused with what an adapter needs."""

import pytest
import torch
from torch import nn

from nopsd.errors import UserError
from nopsd.neurons.adapters import find_sites, watch
from tests.neurons.adapters.scores import PROMPT


def test_the_language_model_inside_a_multimodal_wrapper_is_found():
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "head_dim": 8,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    tokens = {"image_token_index": 60, "boi_token_index": 61, "eoi_token_index": 62}
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **tokens)
    )
    sites, seen_layers = find_sites(model.eval()), []
    assert sites.widths == (24, 24, 24)
    assert sites.unembedding.shape == (64, 16)
    with torch.no_grad(), watch(sites, "act_fn", lambda activity: seen_layers.append(activity.layer)):
        model(input_ids=torch.tensor([PROMPT]))
    assert seen_layers == [0, 1, 2]


def test_an_unknown_architecture_is_refused_with_what_an_adapter_needs(build_model):
    model = build_model()
    del model.model.layers[1].mlp.gate_proj
    with pytest.raises(
        UserError, match="layer 1 has no MLP that an adapter knows; .*Qwen3MLP.*model.mlp_adapter.*must name"
    ):
        find_sites(model)
    with pytest.raises(UserError, match="Linear can't be found .no list of decoder layers"):
        find_sites(nn.Linear(2, 2))
