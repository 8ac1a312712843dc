"""The objective of one tile: target, divergence on its support, clips, pull to the base.

    Σ_n w_n [ clips(ℓ_n) + kl_base_coef · KL(p_n ‖ p_base,n) ]

ℓ is `support.token_loss` against `targets.form_target`'s distribution. The pull to the frozen base is a reverse KL
over the whole vocabulary at every token, whatever support, clips and mask do to ℓ.

In: a tile of logits `[n, V]`, the auxiliary ones by name, weights and sampled ids `[n]`. Out: the tile's share of
the loss and its gradient by the student's logits. The usual objectives go through `full_support`, all others by
way of log-probabilities.

Clips, of whole tokens' losses before they are summed, each off by default:

    token_clip         ℓ_t ← min(ℓ_t, c); no gradient where it is capped
    mask_high_entropy  a threshold in nats: ℓ_t ← 0 where the student's entropy is above it. A share of the
                       positions would need the entropies of all ranks before any loss; a
                       threshold gives the same loss however the step is split. Masked tokens count on in the
                       denominator of the mean, which is known before the forward
    is_clip            ℓ_t ← ℓ_t · min(exp(log p_θ(y_t) − log p_rollout(y_t)), c), the ratio detached; 1 where the
                       server's log-prob is unknown. Comes last

Shapes: n tokens of a tile.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nopsd.config import DistillConfig
from nopsd.train.losses.full_support import DivergenceResult, measure
from nopsd.train.losses.overlap import Top, largest, overlap
from nopsd.train.losses.support import token_loss
from nopsd.train.losses.targets import BASE, form_target
from nopsd.train.losses.tile import Tile, TileValues, divergence_and_gradient, dot, statistics

LOG_RATIO_BOUND = 20.0  # before exp, so that no ratio overflows
NEGATIVE = -1e-6  # losses below count in neg_frac; nearer to 0 lies float32's rounding


@dataclass
class TileLoss:
    """`loss` is a scalar, `grad` `[n, V]` one of the tile's buffers, `found` what the log reads of each token `[n]`."""

    loss: Tensor
    grad: Tensor
    found: dict[str, Tensor]


def tile_loss(
    tile: Tile,
    aux: dict[str, Tensor],
    token_weight_n: Tensor,
    config: DistillConfig,
    kernel: str | None,
    *,
    target_n: Tensor | None = None,
    served_n: Tensor | None = None,
    with_statistics: bool = False,
) -> TileLoss:
    """The loss of one tile and its gradient by the student's logits.

    Args:
        tile: Logits [n, V]; overwritten.
        aux: Logits [n, V] of the objective's other distributions, by name; overwritten.
        token_weight_n: What each token counts.
        config: The objective.
        kernel: As `full_support.kernel_of` has it.
        target_n: The sampled ids.
        served_n: The server's log-probs of them, nats.
        with_statistics: Give the log's numbers too. Entropies, overlap and log-probs are of student and teacher; the
            two KLs are to the target.
    """
    if kernel is not None:
        return _full_vocab(tile, token_weight_n, config, kernel, target_n, served_n, with_statistics)
    tile.normalise(config.temperature, aux.values())
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


def _full_vocab(
    tile: Tile,
    token_weight_n: Tensor,
    config: DistillConfig,
    kernel: str,
    target_n: Tensor | None,
    served_n: Tensor | None,
    with_statistics: bool,
) -> TileLoss:
    tops = (largest(tile.student), largest(tile.teacher)) if with_statistics else None
    sampled = None
    if target_n is not None and (with_statistics or config.is_clip is not None):
        sampled = tuple(logits.gather(-1, target_n[:, None]) for logits in (tile.student, tile.teacher))
    measured = measure(
        tile,
        config,
        kernel,
        wanted=with_statistics or config.mask_high_entropy is not None,
        tops=tops and (tops[0].values[:, 0], tops[1].values[:, 0]),
    )
    found = _statistics(measured, tops) if tops else {}
    if sampled is not None:
        found["student_logprob"] = measured.student.log_probs(sampled[0])[:, 0]
        found["teacher_logprob"] = measured.teacher.log_probs(sampled[1])[:, 0]
    values = TileValues(measured.loss, tile.student, measured.reverse, measured.forward)
    clipped = clip_tokens(values, config, measured.student_entropy, found.get("student_logprob"), served_n)
    measured.gradient(token_weight_n / config.temperature * clipped.factor)
    return TileLoss(token_weight_n.dot(clipped.loss), tile.student, found | clipped.found)


def _statistics(measured: DivergenceResult, tops: tuple[Top, Top]) -> dict[str, Tensor]:
    found = {
        "reverse_kl": measured.reverse,
        "forward_kl": measured.forward,
        "student_entropy": measured.student_entropy,
        "teacher_entropy": measured.teacher_entropy,
    }
    sides = zip((measured.student, measured.teacher), tops)
    log_probs = [normaliser.log_probs(top.values) for normaliser, top in sides]
    return {name: value for name, value in found.items() if value is not None} | overlap(
        tops[0].ids, tops[1].ids, *log_probs
    )


def _pull_to_base(tile: Tile, base_nV: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p‖p_base) and its gradient; keeps student and teacher, so it takes one buffer more."""
    values = divergence_and_gradient(Tile(tile.student.clone(), base_nV, tile.scratch), "reverse_kl", 1.0)
    return values.loss, values.grad


@dataclass
class ClippedTokens:
    """Losses `[n]`, what each token's gradient is multiplied by `[n]`, and what the log reads `[n]` by name."""

    loss: Tensor
    factor: Tensor
    found: dict[str, Tensor] = field(default_factory=dict)


def clip_tokens(
    values: TileValues,
    config: DistillConfig,
    entropy_n: Tensor | None,
    logprob_n: Tensor | None,
    served_n: Tensor | None,
) -> ClippedTokens:
    """Apply the clips of whole tokens' losses.

    Args:
        values: Losses, before clips.
        config: `token_clip`, `mask_high_entropy`, `is_clip`.
        entropy_n: The student's entropy in nats, for the mask.
        logprob_n: The student's log-probs of the sampled tokens, for the ratio.
        served_n: The server's of them; NaN: unknown.
    """
    loss_n, factor_n = values.loss, torch.ones_like(values.loss)
    capped_n, found = values.capped, {}
    if config.token_clip is not None:
        over_n = loss_n > config.token_clip
        capped_n = over_n if capped_n is None else capped_n | over_n
        loss_n, factor_n = loss_n.clamp_max(config.token_clip), factor_n.masked_fill(over_n, 0.0)
    if config.mask_high_entropy is not None:
        assert entropy_n is not None
        masked_n = found["mask_frac"] = entropy_n > config.mask_high_entropy
        loss_n, factor_n = loss_n.masked_fill(masked_n, 0.0), factor_n.masked_fill(masked_n, 0.0)
    found["neg_frac"] = loss_n < NEGATIVE
    if capped_n is not None:
        found["clip_frac"] = capped_n
    if config.is_clip is not None:
        assert logprob_n is not None and served_n is not None
        ratio_n = found["is_ratio"] = importance_ratio(logprob_n, served_n, config.is_clip)
        loss_n, factor_n = loss_n * ratio_n, factor_n * ratio_n
    return ClippedTokens(loss_n, factor_n, found)


def importance_ratio(logprob_n: Tensor, served_n: Tensor, cap: float) -> Tensor:
    """min(p_θ(y) / p_rollout(y), cap); 1 where the server's log-prob is NaN."""
    gap_n = torch.nan_to_num(logprob_n - served_n.to(logprob_n.dtype), nan=0.0)
    return gap_n.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp().clamp_max(cap)
