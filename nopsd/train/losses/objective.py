"""The objective of one tile beyond a plain divergence: target, support, clips, pull to the base.

    Σ_n w_n [ clips(ℓ_n) + kl_base_coef · KL(p_n ‖ p_base,n) ]

ℓ is `support.token_loss` against `targets.form_target`'s distribution, the clips are `tile.clip_tokens`. The pull to
the frozen base is a reverse KL over the whole vocabulary at every token, whatever support, clips and mask do to ℓ.

In: a tile of logits. Out: its share of the loss, and in the student's place the gradient by the student's logits. The
usual objectives go through `full_support`, these by way of log-probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nopsd.config import DistillConfig
from nopsd.train.losses.support import token_loss
from nopsd.train.losses.targets import form_target
from nopsd.train.losses.tile import (
    BASE,
    Tile,
    TileLoss,
    auxiliaries,
    clip_tokens,
    divergence_and_gradient,
    dot,
    statistics,
)


def tile_loss(tile: Tile, config: DistillConfig) -> TileLoss:
    """The loss of one tile; its gradient by the student's logits takes their place.

    The log's entropies, overlap and log-probs are of student and teacher; its two KLs are to the target.

    Args:
        tile: Logits [n, V]; overwritten.
        config: The objective.

    Raises:
        ValueError: The tile lacks what the objective reads.
    """
    if missing := [name for name in auxiliaries(config) if name not in tile.aux]:
        raise ValueError(f"the objective reads the distributions {missing}: give their hidden states in `aux_hidden`")
    if tile.target is None and config.divergence == "sampled_rkl":
        raise ValueError("distill.divergence=sampled_rkl needs the sampled ids, target_N")
    assert tile.token_weight is not None
    tile.normalise(config.temperature, tile.aux.values())
    found = statistics(tile) if tile.with_statistics else {}
    entropy_n, logprob_n = found.get("student_entropy"), None
    if config.mask_high_entropy is not None and entropy_n is None:
        entropy_n = -dot(torch.exp(tile.student, out=tile.scratch), tile.student)
    if config.is_clip is not None and tile.target is not None:
        logprob_n = tile.student.gather(-1, tile.target[:, None])[:, 0]
    policy = None if tile.policy is None else _policy_gradient(tile, tile.policy)
    form_target(tile, config)
    base = _pull_to_base(tile, tile.aux[BASE]) if config.kl_base_coef else None
    values = token_loss(tile, config)
    if policy is not None:
        rows_n, loss_r, grad_rV = policy
        values.loss[rows_n], values.grad[rows_n] = loss_r, grad_rV
    clipped = clip_tokens(values, tile, config, entropy_n, logprob_n)
    scale_n = tile.token_weight / config.temperature
    loss, grad = tile.token_weight.dot(clipped.loss), values.grad.mul_((scale_n * clipped.factor)[:, None])
    if values.reverse is not None and values.forward is not None:
        found |= clipped.found | {"reverse_kl": values.reverse, "forward_kl": values.forward}
    if base is not None:
        kl_n, base_grad = base
        loss = loss + config.kl_base_coef * tile.token_weight.dot(kl_n)
        grad.add_(base_grad.mul_((config.kl_base_coef * scale_n)[:, None]))
        found["base_kl"] = kl_n
    if grad.data_ptr() != tile.student.data_ptr():
        tile.student.copy_(grad)
    return TileLoss(loss, found)


def _policy_gradient(tile: Tile, slope_n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows have the loss c log p(y), their losses, and gradients c (1[y] − p)."""
    assert tile.target is not None
    rows_n = ~slope_n.isnan()
    slope_r1, ids_r1 = slope_n[rows_n, None].to(tile.student.dtype), tile.target[rows_n, None]
    log_p_rV = tile.student[rows_n]
    loss_r = (slope_r1 * log_p_rV.gather(-1, ids_r1))[:, 0]
    return rows_n, loss_r, log_p_rV.exp().mul_(-slope_r1).scatter_add_(-1, ids_r1, slope_r1)


def _pull_to_base(tile: Tile, base_nV: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p‖p_base) and its gradient; keeps student and teacher, so it takes one buffer more."""
    values = divergence_and_gradient(Tile(tile.student.clone(), base_nV, tile.scratch), "reverse_kl", 1.0)
    return values.loss, values.grad
