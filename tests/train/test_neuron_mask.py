"""Which neurons are learned, on sets written by hand; held ones on real engines: test_objective_splits.py."""

import numpy as np
import pytest
import torch

from nopsd.config import NeuronMaskConfig, load_config
from nopsd.engine.distributed import Ranks
from nopsd.errors import ConfigError, DataError
from nopsd.neurons.store import NeuronSets
from nopsd.train.neuron_mask import hold, neuron_mask
from tests.models import qwen3

ALONE = Ranks(0, 1, torch.device("cpu"))


def sets():
    """Three questions over eight neurons; neuron 0 in all, 1 and 2 in two, 5 in the last, which isn't selected."""
    ids = np.array([[0, 1, 2], [0, 1, 2], [0, 5, -1]], np.int32)
    scores = np.array([[1, 9, 1], [1, 9, 1], [50, 1, 0]], np.float16)
    zeros = np.zeros(3, np.int32)
    header = {"widths": [4, 4]}
    return NeuronSets(["a", "b", "c"], zeros.astype(np.float32), ids, scores, zeros, zeros > 0, zeros[:, None], header)


def learned(uids=None, **settings):
    return np.flatnonzero(neuron_mask(sets(), uids, NeuronMaskConfig(**settings), ALONE)).tolist()


def test_neurons_by_the_share_of_sets_that_they_are_in():
    """Of the selected questions alone; protect learns all others."""
    assert learned(["a", "b"], learn="selected") == [0, 1, 2]
    assert learned(["a", "c"], learn="selected", share=1.0) == [0]
    assert learned(["c"], learn="selected", share=0.0) == [0, 5]
    assert learned(learn="protect", share=0.5) == [3, 4, 5, 6, 7]


def test_controls_are_of_equal_size():
    """Else a difference between them would be one of size: largest summed contributions, or drawn by the seed."""
    assert learned(["a", "b"], learn="score", share=0.0) == [0, 1, 2] != learned(learn="random", share=0.5)
    assert learned(learn="score", share=1.0) == [0]  # 52 against 18
    drawn = {tuple(learned(["a", "b"], learn="random", seed=seed)) for seed in range(9)}
    assert {len(one) for one in drawn} == {3} and len(drawn) > 1


def test_a_mask_of_nothing_is_refused():
    with pytest.raises(DataError, match="nothing to be learned"):
        learned([], learn="selected")


def test_gradients_of_what_is_held_are_0_in_every_projection():
    lm = qwen3()
    mask = np.arange(48) % 2 == 0
    hold(lm, mask, others=False)
    lm(input_ids=torch.tensor([[3, 4, 5]]), labels=torch.tensor([[3, 4, 5]])).loss.backward()
    for layer in lm.model.layers:
        for gradient in (
            layer.mlp.gate_proj.weight.grad,
            layer.mlp.up_proj.weight.grad,
            layer.mlp.down_proj.weight.grad.T,
        ):
            assert not gradient[1::2].any() and gradient[::2].any(dim=1).all()
        assert not layer.self_attn.q_proj.weight.grad.any()
    assert not lm.get_input_embeddings().weight.grad.any()


def test_a_mask_of_another_model_is_refused():
    with pytest.raises(ConfigError, match="9 neurons are stored, and the model has 48"):
        hold(qwen3(), np.ones(9, bool), others=True)


@pytest.mark.parametrize(
    "settings", [["train.weight_decay=0.1"], ["train.lora.r=4"], ["train.mlp_tile=8"], ["train.neurons.run=elsewhere"]]
)
def test_what_would_move_a_held_neuron_is_refused(settings):
    with pytest.raises(ConfigError, match=settings[0].split("=")[0]):
        load_config("lab", ["train.neurons.learn=selected", *settings])
