"""What happens to whole tokens' losses before they are summed. Each is off by default.

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
from nopsd.train.losses.tile import TileValues

LOG_RATIO_BOUND = 20.0  # before exp, so that no ratio overflows
NEGATIVE = -1e-6  # losses below count in neg_frac; nearer to 0 lies float32's rounding


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
    """`entropy_n`: the student's, for the mask; `logprob_n`, `served_n`: of the sampled tokens, for the ratio."""
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
