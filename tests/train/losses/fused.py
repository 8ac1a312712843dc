"""The fused loss of tensors given one by one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nopsd.config import DistillConfig
from nopsd.train.losses.fused_linear import DistillInputs, FusedResult, fused_linear_divergence


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
