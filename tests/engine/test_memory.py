"""What saving memory refuses: if these fail, a gradient is of another function, or an error names no key."""

import pytest
import torch

from nopsd.engine.memory import checkpoint_activations, tile_mlps
from nopsd.errors import ConfigError


def test_tiling_refuses_what_it_cannot_do_right():
    """TiledMLP draws new dropout masks in the backward: the gradient would be another function's."""
    model = torch.nn.Module()
    with pytest.raises(ConfigError, match=r"train.mlp_tile: Module has no dense MLP"):
        tile_mlps(model, 4)
    model.mlp = torch.nn.Module()
    model.mlp.up_proj, model.mlp.down_proj = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert tile_mlps(model, 4) == 1
    model.mlp.lora = torch.nn.Dropout(0.1)
    with pytest.raises(ConfigError, match="dropout"):
        tile_mlps(model, 4)


def test_checkpointing_refuses_a_model_without_it():
    with pytest.raises(ConfigError, match=r"train.gradient_checkpointing: Linear doesn't support it"):
        checkpoint_activations(torch.nn.Linear(2, 2))
