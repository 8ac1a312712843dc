"""What `load_frozen` refuses. That it shards is shown with real ranks, in tests/neurons/test_score_pool_on_ranks.py."""

import pytest
import torch

from nopsd.engine.frozen import assert_sharded, load_causal_lm
from nopsd.errors import UserError


def test_an_unsharded_model_is_not_taken_for_a_sharded_one():
    """transformers forgets the ZeRO-3 configuration silently: every rank would hold the whole model."""
    with pytest.raises(RuntimeError, match="weight of the model is not sharded"):
        assert_sharded(torch.nn.Linear(2, 2), torch.float32)


def test_a_shard_of_another_dtype_is_noticed():
    layer = torch.nn.Linear(2, 2, bias=False)
    layer.weight.ds_id, layer.weight.ds_tensor = 0, torch.zeros(4, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"model.dtype is torch.float32.*torch.bfloat16"):
        assert_sharded(layer, torch.float32)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"model.path=.*/nothing can't be loaded"):
        load_causal_lm(str(tmp_path / "nothing"), "float32", {})
