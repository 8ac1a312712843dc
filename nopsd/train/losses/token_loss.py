"""A loss of sampled tokens' log-probs, from hidden states, in tiles, the gradient formed in the forward.

    loss = Σ_n token_weight_n · ℓ_n(log p_n),   log p_n = log softmax(h_n Wᵀ)[y_n]

ℓ is given as a function from log-probs to values and slopes ∂ℓ/∂log p. For each tile of tokens the logits are made,
turned in place into ∂loss/∂logits = w ℓ' (1[y] − p), and at once multiplied into ∂loss/∂h and ∂loss/∂W: three
vocabulary products in all and none in the backward, which only scales. No `[N, V]` tensor with N above the tile
exists. bfloat16 inputs are projected and normalised in float32.

In: hidden states and the output weight, the tokens, their weights, ℓ. Out: the loss, each token's log-prob and entropy.
Shapes: N response tokens, n of a tile's block, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nopsd.engine.products import GradientsInForward, add_weight_gradient, grad_input, project, tile_rows

BLOCK_ELEMENTS = 1 << 18  # logits of a block of rows that stays in a CPU's caches

# (log-probs [n], which of the N rows these are) -> (values [n], slopes ∂ℓ/∂log p [n]), in the log-probs' dtype
LossOf = Callable[[Tensor, slice], tuple[Tensor, Tensor]]


class TokenResult(NamedTuple):
    """A tuple, since ZeRO-3's hooks find tensors in tuples and not in dataclasses."""

    loss: Tensor  # scalar, at least float32; carries gradients to the hidden states and the weight
    logprob_N: Tensor  # log p of the tokens (nats), detached
    entropy_N: Tensor  # of softmax(h_n Wᵀ) (nats), detached


def fused_linear_token_loss(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    target_N: Tensor,
    token_weight_N: Tensor,
    loss_of: LossOf,
    chunk: int | None = None,
) -> TokenResult:
    """Weighted sum of the tokens' losses, with gradients to `hidden_NH` and `weight_VH`, which can be taken once.

    N may be 0: the loss is 0 and still connected, so that a ZeRO rank without tokens enters the backward like the
    others.

    Args:
        hidden_NH: Final hidden states at the N response tokens.
        weight_VH: The output weight.
        target_N: The sampled ids.
        token_weight_N: What each token counts; one of weight 0 adds nothing, whatever its value.
        loss_of: From log-probs (nats) and rows to values and slopes.
        chunk: Tokens of a tile; None: 128 on CPUs, 512 on GPUs.

    Raises:
        ValueError: Shapes that don't fit, such as a weight that ZeRO-3 has released.
    """
    if weight_VH.dim() != 2 or weight_VH.shape[1] != hidden_NH.shape[1]:
        raise ValueError(
            f"the output weight has shape {tuple(weight_VH.shape)}, not [V, {hidden_NH.shape[1]}]: under ZeRO-3 it "
            "must be gathered while the loss is computed (TokenLossHead)"
        )
    counts = len(hidden_NH), len(target_N), len(token_weight_N)
    if len(set(counts)) > 1:
        raise ValueError("rows differ: {} states, {} targets, {} weights".format(*counts))
    rows = max(1, min(tile_rows(chunk, hidden_NH.device), len(hidden_NH)))
    return TokenResult(
        *_FusedTokenLoss.apply(hidden_NH, weight_VH, target_N, token_weight_N, loss_of, rows, torch.is_grad_enabled())
    )


class _FusedTokenLoss(GradientsInForward):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        target_N: Tensor,
        token_weight_N: Tensor,
        loss_of: LossOf,
        chunk: int,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype, (V, _) = torch.promote_types(hidden_NH.dtype, torch.float32), weight_VH.shape
        needs_hidden, needs_weight = (grad_enabled and needed for needed in ctx.needs_input_grad[:2])
        grad_hidden_NH = torch.empty_like(hidden_NH) if needs_hidden else None
        grad_weight_VH = torch.zeros_like(weight_VH, dtype=dtype) if needs_weight else None
        block = max(1, BLOCK_ELEMENTS // V) if hidden_NH.device.type == "cpu" else chunk
        logits_CV = hidden_NH.new_empty(chunk, V, dtype=dtype)
        scratch_bV = hidden_NH.new_empty(min(block, chunk), V, dtype=dtype)
        loss = hidden_NH.new_zeros((), dtype=dtype)
        logprob_N, entropy_N = (hidden_NH.new_empty(len(hidden_NH), dtype=dtype) for _ in range(2))

        for start in range(0, len(hidden_NH), chunk):
            tile = slice(start, min(start + chunk, len(hidden_NH)))
            tile_nV = logits_CV[: tile.stop - start]
            project(hidden_NH[tile], weight_VH, tile_nV)
            for first in range(start, tile.stop, block):
                rows = slice(first, min(first + block, tile.stop))
                z_nV, size = tile_nV[first - start : rows.stop - start], rows.stop - first
                loss += _block(
                    z_nV,
                    scratch_bV[:size],
                    target_N[rows],
                    token_weight_N[rows].to(dtype),
                    loss_of,
                    rows,
                    logprob_N[rows],
                    entropy_N[rows],
                )
            if grad_hidden_NH is not None:
                grad_input(tile_nV, weight_VH, grad_hidden_NH[tile])
            if grad_weight_VH is not None:
                add_weight_gradient(tile_nV, hidden_NH[tile], grad_weight_VH)

        ctx.gradients, ctx.weight_dtype, ctx.others = (grad_hidden_NH, grad_weight_VH), weight_VH.dtype, 5
        ctx.mark_non_differentiable(logprob_N, entropy_N)
        return loss, logprob_N, entropy_N


def _block(
    z_nV: Tensor,
    scratch_nV: Tensor,
    target_n: Tensor,
    token_weight_n: Tensor,
    loss_of: LossOf,
    rows: slice,
    logprob_n: Tensor,
    entropy_n: Tensor,
) -> Tensor:
    """The loss of some rows; their logits become the gradient, their log-probs and entropies are written."""
    z_nV.sub_(z_nV.logsumexp(-1, keepdim=True))
    logprob_n.copy_(z_nV.gather(1, target_n[:, None])[:, 0])
    p_nV = torch.exp(z_nV, out=scratch_nV)
    entropy_n.copy_(torch.einsum("nv,nv->n", p_nV, z_nV).neg_())
    value_n, slope_n = loss_of(logprob_n.clone(), rows)
    counted_n = token_weight_n != 0
    scale_n = torch.where(counted_n, token_weight_n * slope_n, 0.0)
    torch.mul(p_nV, -scale_n[:, None], out=z_nV)
    z_nV.scatter_add_(1, target_n[:, None], scale_n[:, None])
    return torch.where(counted_n, token_weight_n * value_n, 0.0).sum()
