"""Divergence from hidden states, in tiles, with the gradients formed in the forward (SPEC §6.1, §6.3, §6.4).

    loss = Σ_n token_weight_n · D(softmax(h_n Wᵀ/τ), softmax(h'_n W'ᵀ/τ))

h, W the student's hidden states and output weight, h', W' the teacher's. For each tile of `logit_chunk` tokens
both sides are projected, the loss and ∂loss/∂logits are formed in place (`tile`), and at once multiplied into
∂loss/∂h and ∂loss/∂W: four vocabulary products in all and none in the backward, which only scales. No `[N, V]`
tensor with N above the chunk exists. bfloat16 inputs are projected and normalised in float32.

Shapes: N response tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nopsd.config import DistillConfig
from nopsd.distill.products import add_weight_gradient, project, pull_back
from nopsd.distill.tile import STATISTICS, Tile, divergence_and_gradient, statistics


class FusedResult(NamedTuple):
    """A tuple, since ZeRO-3's hooks find tensors in tuples and not in dataclasses."""

    loss: Tensor  # scalar, at least float32; carries gradients to the hidden states and the weight
    sums: Tensor | None = None  # float64 [len(STATISTICS)]: sums over tokens, to be added over micro-batches and ranks
    student_logprob_N: Tensor | None = None  # log p of the sampled tokens, detached; None without statistics or targets
    reverse_kl_N: Tensor | None = None  # each token's KL(student ‖ teacher), detached; None without statistics

    @property
    def stats(self) -> dict[str, Tensor]:
        """The sums by name; empty if none were asked for."""
        return {} if self.sums is None else dict(zip(STATISTICS, self.sums))


def mean_statistics(sums: Tensor) -> dict[str, float]:
    """Per-token means of summed statistics (after an all-reduce), with `tokens` itself and the entropy gap ΔH."""
    named = dict(zip(STATISTICS, sums.tolist()))
    tokens = named.pop("tokens")
    means = {name: total / max(tokens, 1.0) for name, total in named.items()}
    means["entropy_gap"] = means["teacher_entropy"] - means["student_entropy"]
    return {"tokens": tokens, **means}


def fused_linear_divergence(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    teacher_hidden_NH: Tensor,
    teacher_weight_VH: Tensor,
    token_weight_N: Tensor,
    config: DistillConfig,
    *,
    target_N: Tensor | None = None,
    vocab_size: int | None = None,
    with_statistics: bool = False,
) -> FusedResult:
    """Weighted sum of divergences, with gradients to `hidden_NH` and `weight_VH`; the teacher gets none.

    `config` gives divergence, beta, temperature and logit_chunk. `vocab_size`: ids from there on are padding
    and take no part. `target_N`: the sampled ids, for the log. Statistics leave out tokens of weight 0.
    N may be 0: the loss is 0 and still connected, with zero gradients, so that a ZeRO rank without tokens
    enters the backward like the others. The gradient can be taken once (no double backward, no retained graph).
    """
    vocab_size = _checked_vocabulary(weight_VH, teacher_weight_VH, vocab_size)
    _check_rows(hidden_NH, teacher_hidden_NH, token_weight_N, target_N)
    loss, sums, logprob_N, reverse_kl_N = _FusedLinearDivergence.apply(
        hidden_NH, weight_VH, teacher_hidden_NH.detach(), teacher_weight_VH.detach(), token_weight_N.detach(),
        target_N, config, vocab_size, with_statistics, torch.is_grad_enabled(),
    )  # fmt: skip
    if not with_statistics:
        return FusedResult(loss)
    return FusedResult(loss, sums, None if target_N is None else logprob_N, reverse_kl_N)


class _FusedLinearDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        teacher_hidden_NH: Tensor,
        teacher_weight_VH: Tensor,
        token_weight_N: Tensor,
        target_N: Tensor | None,
        config: DistillConfig,
        vocab_size: int,
        with_statistics: bool,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(hidden_NH.dtype, torch.float32)
        N, chunk = hidden_NH.shape[0], max(1, min(config.logit_chunk, hidden_NH.shape[0]))
        raw_cV, student_cV, teacher_cV = (hidden_NH.new_empty(chunk, vocab_size, dtype=dtype) for _ in range(3))
        student_VH, teacher_VH = weight_VH[:vocab_size], teacher_weight_VH[:vocab_size]
        loss = hidden_NH.new_zeros((), dtype=dtype)
        sums = hidden_NH.new_zeros(len(STATISTICS), dtype=torch.float64)
        logprob_N, reverse_kl_N = (hidden_NH.new_zeros(N if with_statistics else 0, dtype=dtype) for _ in range(2))
        needs_hidden, needs_weight = (grad_enabled and needed for needed in ctx.needs_input_grad[:2])
        grad_hidden_NH = torch.empty_like(hidden_NH) if needs_hidden else None
        grad_weight_VH = torch.zeros_like(weight_VH, dtype=dtype) if needs_weight else None

        for start in range(0, N, chunk):
            rows, n = slice(start, start + chunk), min(chunk, N - start)
            raw_nV, student_nV, teacher_nV = raw_cV[:n], student_cV[:n], teacher_cV[:n]
            _log_probs(hidden_NH[rows], student_VH, config.temperature, raw_nV, student_nV)
            _log_probs(teacher_hidden_NH[rows], teacher_VH, config.temperature, raw_nV, teacher_nV)
            tile = Tile(student=student_nV, teacher=teacher_nV, scratch=raw_nV)
            token_weight_n = token_weight_N[rows].to(dtype)
            found = statistics(tile, None if target_N is None else target_N[rows]) if with_statistics else {}
            values = divergence_and_gradient(tile, config.divergence, config.beta, both=with_statistics)
            loss += token_weight_n.dot(values.loss)
            if with_statistics:
                found |= {"reverse_kl": values.reverse, "forward_kl": values.forward}
                _add_statistics(sums, found, token_weight_n)
                logprob_N[rows] = found.get("student_logprob", 0.0)
                reverse_kl_N[rows] = values.reverse
            grad_nV = values.grad.mul_((token_weight_n / config.temperature)[:, None])
            if grad_hidden_NH is not None:
                _pull_back(grad_nV, student_VH, grad_hidden_NH[rows])
            if grad_weight_VH is not None:
                add_weight_gradient(grad_nV, hidden_NH[rows], grad_weight_VH[:vocab_size])

        ctx.gradients, ctx.weight_dtype = (grad_hidden_NH, grad_weight_VH), weight_VH.dtype
        ctx.mark_non_differentiable(sums, logprob_N, reverse_kl_N)
        return loss, sums, logprob_N, reverse_kl_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the fused loss's gradient was taken already: run the forward again")
        (grad_hidden_NH, grad_weight_VH), ctx.gradients = ctx.gradients, None
        if grad_hidden_NH is not None:
            grad_hidden_NH = grad_hidden_NH.mul_(grad_loss)
        if grad_weight_VH is not None:
            grad_weight_VH = grad_weight_VH.mul_(grad_loss).to(ctx.weight_dtype)
        return (grad_hidden_NH, grad_weight_VH, *[None] * 8)


def _log_probs(hidden_nH: Tensor, weight_VH: Tensor, temperature: float, raw_nV: Tensor, out_nV: Tensor) -> None:
    project(hidden_nH, weight_VH, raw_nV)
    if temperature != 1.0:
        raw_nV.div_(temperature)
    torch.log_softmax(raw_nV, dim=-1, out=out_nV)


def _pull_back(grad_nV: Tensor, weight_VH: Tensor, out_nH: Tensor) -> None:
    """Into rows of the hidden states' gradient, which has their dtype and not the tile's."""
    if out_nH.dtype == grad_nV.dtype:
        pull_back(grad_nV, weight_VH, out_nH)
        return
    wide_nH = out_nH.new_empty(out_nH.shape, dtype=grad_nV.dtype)
    pull_back(grad_nV, weight_VH, wide_nH)
    out_nH.copy_(wide_nH)


def _add_statistics(sums: Tensor, found: dict[str, Tensor], token_weight_n: Tensor) -> None:
    counted_n = token_weight_n > 0
    sums[0] += counted_n.sum()
    for index, name in enumerate(STATISTICS[1:], start=1):
        if name in found:
            sums[index] += (found[name].double() * counted_n).sum()


def _checked_vocabulary(weight_VH: Tensor, teacher_weight_VH: Tensor, vocab_size: int | None) -> int:
    for role, weight in (("student", weight_VH), ("teacher", teacher_weight_VH)):
        if weight.dim() != 2:
            raise ValueError(
                f"the {role}'s output weight has shape {tuple(weight.shape)}, not [V, H]: under ZeRO-3 it must be "
                "gathered while the loss is computed (DistillHead for the student, gathered_weight for the teacher)"
            )
    student_V, teacher_V = weight_VH.shape[0], teacher_weight_VH.shape[0]
    if vocab_size is None and student_V != teacher_V:
        raise ValueError(f"student has {student_V} output rows, teacher {teacher_V}: give vocab_size, what both share")
    vocab_size = student_V if vocab_size is None else vocab_size
    if not 0 < vocab_size <= min(student_V, teacher_V):
        raise ValueError(f"vocab_size {vocab_size} is not within the {student_V} and {teacher_V} output rows")
    return vocab_size


def _check_rows(hidden_NH: Tensor, teacher_hidden_NH: Tensor, token_weight_N: Tensor, target_N: Tensor | None) -> None:
    counts = [t.shape[0] for t in (hidden_NH, teacher_hidden_NH, token_weight_N)]
    counts += [] if target_N is None else [target_N.shape[0]]
    if len(set(counts)) > 1:
        raise ValueError(f"rows differ: student, teacher, weights (and targets) have {counts}")
