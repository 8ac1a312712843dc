"""The fused loss of tensors given one by one, the plain loss, and inputs for both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nopsd.config import DistillConfig
from nopsd.train.losses.fused_linear import DistillInputs, FusedResult, fused_linear_divergence
from tests.train.losses.reference import divergence

KINDS = [("reverse_kl", 0.5), ("forward_kl", 0.5), ("jsd", 0.5), ("jsd", 0.1), ("jsd", 0.0), ("jsd", 1.0)]
N, H, V = 11, 5, 40  # tokens, hidden size, vocabulary


def fused_loss(
    hidden: Tensor,
    weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    token_weight: Tensor,
    config: DistillConfig,
    vocab_size: int | None = None,
    **more: Any,
) -> FusedResult:
    """`more`: of DistillInputs; statistics only where they are asked for."""
    inputs = DistillInputs(teacher_hidden, teacher_weight, token_weight, **({"with_statistics": False} | more))
    return fused_linear_divergence(hidden, weight, inputs, config, vocab_size)


def inputs(dtype=torch.float64, n=N, h=H, v=V, seed=0):
    """hidden, weight, teacher hidden, teacher weight, token weights, targets."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((n, h), (v, h), (n, h), (v, h))
    tensors = [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    token_weight = torch.rand(n, generator=generator, dtype=torch.float64) + 0.1
    return *tensors, token_weight, torch.randint(v, (n,), generator=generator)


def config(kind="reverse_kl", beta=0.5, temperature=1.0, chunk=4):
    return DistillConfig(divergence=kind, beta=beta, temperature=temperature, logit_chunk=chunk)


def log_probs(hidden, weight, temperature=1.0):
    return (hidden @ weight.t() / temperature).log_softmax(-1)


def plain(hidden, weight, teacher_hidden, teacher_weight, token_weight, c):
    student = log_probs(hidden, weight, c.temperature)
    teacher = log_probs(teacher_hidden, teacher_weight, c.temperature)
    return (token_weight * divergence(c.divergence, student, teacher, c.beta)).sum()
