"""Divergences between two next-token distributions, token by token: the reference that the fused losses are held to.

In: log-probabilities `[..., V]` of the student (p) and the teacher (q), finite, any float dtype.
Out: one number of nats for each token `[...]`, differentiable.
`token_divergence` is the whole of `distill.divergence`, `support` and `pointwise_clip` in plain autograd.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nopsd.config import DistillConfig
from nopsd.train.losses.tile import canonical


def reverse_kl(student_logp_NV: Tensor, teacher_logp_NV: Tensor) -> Tensor:
    """KL(p‖q) = Σ_v p (log p − log q), in nats.

    Args:
        student_logp_NV: log p, [..., V].
        teacher_logp_NV: log q, [..., V].

    Source:
        The paper's loss, Eqs. 1 and 7.
    """
    return (student_logp_NV.exp() * (student_logp_NV - teacher_logp_NV)).sum(-1)


def forward_kl(student_logp_NV: Tensor, teacher_logp_NV: Tensor) -> Tensor:
    """KL(q‖p) = Σ_v q (log q − log p)."""
    return (teacher_logp_NV.exp() * (teacher_logp_NV - student_logp_NV)).sum(-1)


def jsd(student_logp_NV: Tensor, teacher_logp_NV: Tensor, beta: float) -> Tensor:
    """β KL(q‖m) + (1−β) KL(p‖m) with m = β q + (1−β) p, in nats.

    Args:
        student_logp_NV: log p, [..., V].
        teacher_logp_NV: log q, [..., V].
        beta: By convention 1 is the reverse and 0 the forward KL; the formula itself is 0 at both ends.
    """
    kind = canonical("jsd", beta)
    if kind != "jsd":
        return divergence(kind, student_logp_NV, teacher_logp_NV)
    mixture_NV = torch.logaddexp(teacher_logp_NV + math.log(beta), student_logp_NV + math.log1p(-beta))
    teacher_part_N = (teacher_logp_NV.exp() * (teacher_logp_NV - mixture_NV)).sum(-1)
    student_part_N = (student_logp_NV.exp() * (student_logp_NV - mixture_NV)).sum(-1)
    return beta * teacher_part_N + (1 - beta) * student_part_N


def entropy(logp_NV: Tensor) -> Tensor:
    """Shannon entropy −Σ_v p log p."""
    return -(logp_NV.exp() * logp_NV).sum(-1)


def divergence(kind: str, student_logp_NV: Tensor, teacher_logp_NV: Tensor, beta: float = 0.5) -> Tensor:
    """The divergence that `distill.divergence` names; `beta` counts for `jsd` alone."""
    kind = canonical(kind, beta)
    if kind == "reverse_kl":
        return reverse_kl(student_logp_NV, teacher_logp_NV)
    if kind == "forward_kl":
        return forward_kl(student_logp_NV, teacher_logp_NV)
    return jsd(student_logp_NV, teacher_logp_NV, beta)


def sampled_reverse_kl(student_logp_NV: Tensor, teacher_logp_NV: Tensor, target_N: Tensor) -> Tensor:
    """sg(log p(y) − log q(y))·log p(y): the score-function estimate of the reverse KL's gradient from one token.

    Its value estimates nothing; its gradient's mean over y ∼ p is the reverse KL's. The advantage is detached.

    Args:
        student_logp_NV: log p, [..., V].
        teacher_logp_NV: log q, [..., V].
        target_N: The sampled ids y.
    """
    log_p_N = student_logp_NV.gather(-1, target_N[..., None])[..., 0]
    log_q_N = teacher_logp_NV.gather(-1, target_N[..., None])[..., 0]
    return (log_p_N - log_q_N).detach() * log_p_N


def token_divergence(
    config: DistillConfig, student_logp_NV: Tensor, teacher_logp_NV: Tensor, target_N: Tensor | None = None
) -> Tensor:
    """A token's divergence as configured, in plain autograd: the reference for the fused loss.

    Args:
        config: Divergence, support, tail and `pointwise_clip`.
        student_logp_NV: log p, [N, V].
        teacher_logp_NV: log q, [N, V].
        target_N: The sampled ids, which sampled_rkl needs.

    Returns:
        Nats, [N].
    """
    if config.divergence == "sampled_rkl":
        assert target_N is not None
        return sampled_reverse_kl(student_logp_NV, teacher_logp_NV, target_N)
    log_p, log_q = student_logp_NV, teacher_logp_NV
    topk = config.support == "topk" and config.topk < log_p.shape[-1]
    if topk:
        chosen = log_p if config.topk_of == "student" else log_q
        ids_Nk = chosen.detach().topk(config.topk).indices
        log_p, log_q = (coarsen(logp, ids_Nk, config.tail) for logp in (log_p, log_q))
    kind = canonical(config.divergence, config.beta)
    if topk and config.tail == "stopgrad":
        terms = log_p.exp() * (log_p - log_q).detach()
    else:
        terms = _terms(kind, log_p, log_q, config.beta)
    return (terms if config.pointwise_clip is None else terms.clamp_max(config.pointwise_clip)).sum(-1)


def coarsen(logp_NV: Tensor, ids_Nk: Tensor, tail: str) -> Tensor:
    """Log-probabilities of the classes that `distill.tail` leaves of a top-k support.

    Args:
        logp_NV: Log-probabilities over the vocabulary.
        ids_Nk: The top-k ids.
        tail: `bucket`, `renorm`, `stopgrad` or `none`.

    Returns:
        [..., k], with a bucket [..., k + 1].
    """
    top = logp_NV.gather(-1, ids_Nk)
    if tail == "renorm":
        return top.log_softmax(-1)
    if tail == "bucket":
        rest = logp_NV.scatter(-1, ids_Nk, -math.inf).logsumexp(-1, keepdim=True)
        return torch.cat([top, rest], -1)
    return top


def _terms(kind: str, log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    if kind == "reverse_kl":
        return log_p.exp() * (log_p - log_q)
    if kind == "forward_kl":
        return log_q.exp() * (log_q - log_p)
    log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log1p(-beta))
    return beta * log_q.exp() * (log_q - log_m) + (1 - beta) * log_p.exp() * (log_p - log_m)
