"""The objective of one tile: target, divergence on its support, clips, pull to the base (SPEC §6.3, §11).

    Σ_n w_n [ clips(ℓ_n) + kl_base_coef · KL(p_n ‖ p_base,n) ]

ℓ is `support.token_loss` against `targets.form_target`'s distribution. The pull to the frozen base is a reverse KL
over the whole vocabulary at every token, whatever support, clips and mask do to ℓ.

In: a tile of log-probabilities `[n, V]`, the auxiliary ones by name, weights and sampled ids `[n]`. Out: the tile's
share of the loss and its gradient by the student's scaled logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nopsd.config import DistillConfig
from nopsd.distill.clips import clip_tokens
from nopsd.distill.support import token_loss
from nopsd.distill.targets import BASE, form_target
from nopsd.distill.tile import Tile, divergence_and_gradient, dot, statistics


@dataclass
class TileLoss:
    """`loss` is a scalar, `grad` `[n, V]` one of the tile's buffers, `found` what the log reads of each token `[n]`."""

    loss: Tensor
    grad: Tensor
    found: dict[str, Tensor]


def tile_loss(
    tile: Tile, aux: dict[str, Tensor], token_weight_n: Tensor, config: DistillConfig, *,
    target_n: Tensor | None = None, served_n: Tensor | None = None, with_statistics: bool = False,
) -> TileLoss:
    """Overwrites the tile and, with kl_base_coef, `aux["base"]`. `served_n`: the server's log-probs of the sampled ids.

    The log's entropies, overlap and log-probs are of student and teacher; its two KLs are to the target.
    """
    found = statistics(tile, target_n) if with_statistics else {}
    entropy_n = logprob_n = None
    if config.mask_high_entropy is not None:
        entropy_n = found.get("student_entropy", None)
        if entropy_n is None:
            entropy_n = -dot(torch.exp(tile.student, out=tile.scratch), tile.student)
    if config.is_clip is not None:
        assert target_n is not None
        logprob_n = tile.student.gather(-1, target_n[:, None])[:, 0]
    form_target(tile, aux, config)
    base = _pull_to_base(tile, aux[BASE]) if config.kl_base_coef else None
    values = token_loss(tile, config, target_n, both=with_statistics)
    clipped = clip_tokens(values, config, entropy_n, logprob_n, served_n)
    scale_n = token_weight_n / config.temperature
    loss, grad = token_weight_n.dot(clipped.loss), values.grad.mul_((scale_n * clipped.factor)[:, None])
    if with_statistics:
        assert values.reverse is not None and values.forward is not None
        found |= clipped.found | {"reverse_kl": values.reverse, "forward_kl": values.forward}
    if base is not None:
        kl_n, base_grad = base
        loss = loss + config.kl_base_coef * token_weight_n.dot(kl_n)
        grad.add_(base_grad.mul_((config.kl_base_coef * scale_n)[:, None]))
        found["base_kl"] = kl_n
    return TileLoss(loss, grad, found)


def _pull_to_base(tile: Tile, base_nV: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p‖p_base) and its gradient; keeps student and teacher, so it takes one buffer more."""
    values = divergence_and_gradient(Tile(tile.student.clone(), base_nV, tile.scratch), "reverse_kl", 1.0)
    return values.loss, values.grad
