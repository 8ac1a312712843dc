"""Divergences between two next-token distributions, token by token (SPEC §6.1, §6.3): the reference maths.

In: log-probabilities `[..., V]` of the student (p) and the teacher (q), finite, any float dtype.
Out: one number of nats for each token `[...]`, differentiable. `fused_linear` computes the same values
and their gradients from hidden states without ever holding `[N, V]`; the tests hold it to this file.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def reverse_kl(student_logp_NV: Tensor, teacher_logp_NV: Tensor) -> Tensor:
    """KL(p‖q) = Σ_v p (log p − log q): the paper's loss (Eq. 1)."""
    return (student_logp_NV.exp() * (student_logp_NV - teacher_logp_NV)).sum(-1)


def forward_kl(student_logp_NV: Tensor, teacher_logp_NV: Tensor) -> Tensor:
    """KL(q‖p) = Σ_v q (log q − log p)."""
    return (teacher_logp_NV.exp() * (teacher_logp_NV - student_logp_NV)).sum(-1)


def jsd(student_logp_NV: Tensor, teacher_logp_NV: Tensor, beta: float) -> Tensor:
    """β KL(q‖m) + (1−β) KL(p‖m) with m = β q + (1−β) p.

    By convention β=1 is the reverse and β=0 the forward KL; the formula itself is 0 at both ends.
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


def canonical(kind: str, beta: float) -> str:
    """The formula that `kind` means: jsd's ends are the two KLs. ValueError: unknown kind, or β outside [0, 1]."""
    if kind in ("reverse_kl", "forward_kl"):
        return kind
    if kind != "jsd":
        raise ValueError(f"divergence {kind!r}: use reverse_kl, forward_kl or jsd")
    if not 0 <= beta <= 1:
        raise ValueError(f"jsd's beta is {beta}: it must lie between 0 (forward KL) and 1 (reverse KL)")
    return {0.0: "forward_kl", 1.0: "reverse_kl"}.get(float(beta), "jsd")


def divergence(kind: str, student_logp_NV: Tensor, teacher_logp_NV: Tensor, beta: float = 0.5) -> Tensor:
    """The divergence that `distill.divergence` names; `beta` counts for `jsd` alone."""
    kind = canonical(kind, beta)
    if kind == "reverse_kl":
        return reverse_kl(student_logp_NV, teacher_logp_NV)
    if kind == "forward_kl":
        return forward_kl(student_logp_NV, teacher_logp_NV)
    return jsd(student_logp_NV, teacher_logp_NV, beta)
