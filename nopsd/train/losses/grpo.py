"""GRPO's loss of one token, and its slope by the token's log-prob (arXiv 2402.03300, 1707.06347). Pure.

    ℓ = −min(ρ A, clip(ρ, 1−ε, 1+ε) A) + β k3,   ρ = π_θ/π_old,   k3 = π_ref/π_θ − log(π_ref/π_θ) − 1

Means over all tokens of the step make it TRL's loss_type "dapo" (or "bnpo" on one micro-batch) with epsilon = ε and
beta = β. k3 estimates KL(π_θ ‖ π_ref) (Schulman 2020, "Approximating KL divergence").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Valued = tuple[Tensor, Tensor]  # values and slopes ∂/∂log π_θ, [n] each


@dataclass(frozen=True)
class GrpoLoss:
    """Of one micro-batch's rows.

    `old_N`: log-probs under the policy that sampled, NaN where unknown; None, or NaN: the trained policy's own, so that
    ρ = 1. `reference_N`: the reference's; None without the KL term.
    """

    advantage_N: Tensor
    old_N: Tensor | None
    reference_N: Tensor | None
    clip: float
    kl_coef: float

    def __call__(self, logprob_n: Tensor, rows: slice) -> Valued:
        """The values and slopes of some of the rows."""
        ratio_n = self._ratio(logprob_n, rows)
        value_n, slope_n = clipped(ratio_n, self.advantage_N[rows].to(ratio_n.dtype), self.clip)
        if self.reference_N is not None:
            kl_n, kl_slope_n = k3(logprob_n, self.reference_N[rows].to(logprob_n.dtype))
            value_n, slope_n = value_n + self.kl_coef * kl_n, slope_n + self.kl_coef * kl_slope_n
        return value_n, slope_n

    def logged_values(self, logprob_N: Tensor) -> tuple[Tensor, ...]:
        """ρ, whether it is clipped (so that the token has no gradient but the KL's), k3: [N] each."""
        everything = slice(0, len(logprob_N))
        ratio_N = self._ratio(logprob_N, everything)
        clipped_N = is_clipped(ratio_N, self.advantage_N, self.clip).to(ratio_N.dtype)
        if self.reference_N is None:
            return ratio_N, clipped_N
        return ratio_N, clipped_N, k3(logprob_N, self.reference_N.to(logprob_N.dtype))[0]

    def _ratio(self, logprob_n: Tensor, rows: slice) -> Tensor:
        if self.old_N is None:
            return torch.ones_like(logprob_n)
        old_n = self.old_N[rows].to(logprob_n.dtype)
        return (logprob_n - torch.where(old_n.isnan(), logprob_n, old_n)).exp()


def clipped(ratio_n: Tensor, advantage_n: Tensor, clip: float) -> Valued:
    """−min(ρ A, clip(ρ, 1−ε, 1+ε) A), and its slope by log π.

    Args:
        ratio_n: ρ = π_θ / π_old of the sampled tokens.
        advantage_n: A.
        clip: ε.
    """
    plain_n, bounded_n = ratio_n * advantage_n, ratio_n.clamp(1 - clip, 1 + clip) * advantage_n
    slope_n = torch.where(is_clipped(ratio_n, advantage_n, clip), 0.0, -plain_n)
    return -torch.minimum(plain_n, bounded_n), slope_n


def is_clipped(ratio_n: Tensor, advantage_n: Tensor, clip: float) -> Tensor:
    """Where the surrogate is flat: ρ has gone beyond the clip in the direction that A asks for."""
    return ((ratio_n > 1 + clip) & (advantage_n > 0)) | ((ratio_n < 1 - clip) & (advantage_n < 0))


def k3(logprob_n: Tensor, reference_n: Tensor) -> Valued:
    """exp(d) − d − 1 with d = log π_ref − log π_θ: never negative."""
    apart_n = reference_n - logprob_n
    grown_n = torch.expm1(apart_n)
    return grown_n - apart_n, -grown_n
