"""The divergence of two distributions over C classes, term by term, with its slope in closed form.

In: p, q and d = log p − log q of each class `[n, C]`: the whole vocabulary, or the top-k and perhaps its tail.
Out: the sum of the terms, and its slope ∂/∂ log p, up to a multiple of p: p itself is the slope of Σp = 1, so
where the classes are all there is ("complete") a multiple of it changes no gradient of the logits. It is chosen
so that equal distributions give a slope of exactly 0 and not p·1e-7:

                 term                              slope              where the term is capped
    reverse KL   p d                               p d                −p (0 if not complete)
    forward KL   −q d                              p − q (−q)         p (0)
    JSD β        β q log q/m + (1−β) p log p/m     (1−β) p log p/m    0

An incomplete reverse KL is thereby that of `tail: stopgrad`, Σ p·sg(d). Its slope p (d+1) without the
stop-gradient is the biased form that the configuration refuses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class ClassLoss:
    """Per token: the summed terms `[n]`, their slope by log p `[n, C]`, whether any term was capped `[n]` (or None)."""

    loss: Tensor
    slope: Tensor
    capped: Tensor | None


def class_loss(
    kind: str, beta: float, p_nC: Tensor, q_nC: Tensor, d_nC: Tensor, cap: float | None, complete: bool
) -> ClassLoss:
    """Terms and slopes of a divergence over C classes, summed for each token.

    Args:
        kind: `reverse_kl`, `forward_kl` or `jsd`, canonical.
        beta: Of jsd.
        p_nC: Probabilities of the student; `q_nC` of the teacher.
        d_nC: log p − log q.
        cap: `distill.pointwise_clip`, the most that a term may count, in nats; None: no cap.
        complete: The classes are all there is: Σp = Σq = 1.
    """
    terms_nC, slope_nC, of_capped_nC = _terms(kind, beta, p_nC, q_nC, d_nC, complete)
    if cap is not None:
        over_nC = terms_nC > cap
        slope_nC = torch.where(over_nC, of_capped_nC, slope_nC)
        return ClassLoss(terms_nC.clamp_max(cap).sum(-1), slope_nC, over_nC.any(-1))
    loss_n = terms_nC.sum(-1)
    if complete and kind != "jsd":  # the Bregman form of `tile`
        excess_n = q_nC.sum(-1) - p_nC.sum(-1)
        loss_n = loss_n + (excess_n if kind == "reverse_kl" else -excess_n)
    return ClassLoss(loss_n, slope_nC, None)


def _terms(
    kind: str, beta: float, p_nC: Tensor, q_nC: Tensor, d_nC: Tensor, complete: bool
) -> tuple[Tensor, Tensor, Tensor]:
    zero = p_nC.new_zeros(())
    if kind == "reverse_kl":
        terms_nC = p_nC * d_nC
        return terms_nC, terms_nC, -p_nC if complete else zero
    if kind == "forward_kl":
        slope_nC = p_nC - q_nC if complete else -q_nC
        return -q_nC * d_nC, slope_nC, p_nC if complete else zero
    log_ratio_nC = -torch.logaddexp(math.log(beta) - d_nC, d_nC.new_tensor(math.log1p(-beta)))  # log p/m
    slope_nC = (1 - beta) * p_nC * log_ratio_nC
    return beta * q_nC * (log_ratio_nC - d_nC) + slope_nC, slope_nC, zero
