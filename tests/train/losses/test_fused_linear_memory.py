"""The fused loss keeps to a tile's memory and to four matrix products: else long responses would not fit."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nopsd.config import DistillConfig
from nopsd.train.losses.tile import auxiliaries
from tests.train.losses.fused import KINDS, config, fused_loss, inputs, plain


class Largest(TorchDispatchMode):
    """Records the largest tensor any operation returns, and the vocabulary-sized matrix products."""

    def __init__(self):
        super().__init__()
        self.elements, self.products = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.numel())
        self.products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
        return result


@pytest.mark.parametrize("kind, beta", KINDS[:3])
@pytest.mark.parametrize("with_statistics", [False, True])
def test_no_tensor_larger_than_a_tile_and_four_products(kind, beta, with_statistics):
    """Never a whole [N, V], in the forward or in the backward; nothing projected twice."""
    chunk, tiles = 8, 6
    hidden, weight, *teacher, token_weight, target = inputs(torch.float32, n=chunk * tiles, h=4, v=300)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    with Largest() as seen:
        fused_loss(
            *leaves,
            *teacher,
            token_weight,
            config(kind, beta, chunk=chunk),
            target_N=target,
            with_statistics=with_statistics,
        ).loss.backward()
    assert seen.elements == chunk * 300
    assert seen.products == 4 * tiles
    with Largest() as whole:  # the watch itself works: the plain loss is caught
        plain(*leaves, *teacher, token_weight.float(), config(kind, beta)).backward()
    assert whole.elements == chunk * tiles * 300


@pytest.mark.parametrize(
    "keys, products",
    [
        ({"support": "topk", "topk": 20}, 4),
        ({"pointwise_clip": 0.1, "token_clip": 1.0}, 4),
        ({"kl_base_coef": 0.1}, 5),
        ({"target": "pmi", "kl_base_coef": 0.1}, 6),
        ({"target": "barycenter"}, 4),
        ({"contrast": "random_ctx"}, 5),
        ({"divergence": "sampled_rkl"}, 4),
    ],
    ids=str,
)
def test_other_objectives_stay_within_a_tile_and_project_each_side_once(keys, products):
    """An auxiliary distribution costs one product and no [N, V]; clips and supports cost no product."""
    chunk, tiles = 8, 6
    hidden, weight, *teacher, token_weight, target = inputs(torch.float32, n=chunk * tiles, h=4, v=300)
    leaves, c = (hidden.requires_grad_(), weight.requires_grad_()), DistillConfig(**keys, logit_chunk=chunk)
    with Largest() as seen:
        fused_loss(
            *leaves,
            *teacher,
            token_weight,
            c,
            target_N=target,
            with_statistics=True,
            aux_hidden=dict.fromkeys(auxiliaries(c), teacher[0]),
        ).loss.backward()
    assert seen.elements == chunk * 300
    assert seen.products == products * tiles


def test_without_gradients_nothing_is_multiplied_back():
    hidden, weight, *teacher, token_weight, _ = inputs()
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    with torch.no_grad(), Largest() as seen:
        loss = fused_loss(*leaves, *teacher, token_weight, config(chunk=100)).loss
    assert seen.products == 2 and not loss.requires_grad
    torch.testing.assert_close(loss, plain(*leaves, *teacher, token_weight, config()).detach())
