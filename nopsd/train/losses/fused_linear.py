"""Divergence from hidden states, in tiles, with the gradients formed in the forward.

    loss = Σ_n token_weight_n · D(softmax(h_n Wᵀ/τ), softmax(h'_n W'ᵀ/τ))

h, W the student's hidden states and output weight, h', W' the teacher's. For each tile of `logit_chunk` tokens
both sides are projected, the loss and ∂loss/∂logits are formed in place (`objective`, a block of rows at a time), and
at once multiplied into ∂loss/∂h and ∂loss/∂W: four vocabulary products in all and none in the backward, which only
scales. Two tile buffers; each auxiliary distribution (`targets`) and a mixed teacher is one product and one tile
buffer more. No `[N, V]` tensor with N above the chunk exists. bfloat16 inputs are projected and normalised in float32.

Shapes: N response tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nopsd.config import DistillConfig
from nopsd.engine.products import add_weight_gradient, grad_input, project, tile_rows
from nopsd.train.losses.full_support import block_rows, kernel_of
from nopsd.train.losses.objective import TileLoss, tile_loss
from nopsd.train.losses.targets import auxiliaries
from nopsd.train.losses.tile import STATISTICS, Tile

Head = tuple[Tensor, Tensor]  # hidden states [N, H'] and the output weight [V, H'] that makes logits of them


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
    served_N: Tensor | None = None,
    aux: Mapping[str, Head] | None = None,
    teacher_mix: tuple[Tensor, Tensor, float] | None = None,
    vocab_size: int | None = None,
    with_statistics: bool = False,
) -> FusedResult:
    """Weighted sum of divergences over tokens (the paper's Eqs. 7 to 10), from hidden states, without a [N, V] tensor.

    Gradients go to `hidden_NH` and `weight_VH` alone, and can be taken once. N may be 0: the loss is 0 and still
    connected, so that a ZeRO rank without tokens enters the backward like the others.

    Args:
        hidden_NH, weight_VH: The student's final hidden states at the N response tokens, and its output weight.
        teacher_hidden_NH, teacher_weight_VH: The teacher's.
        token_weight_N: What each token counts; statistics leave out those of weight 0.
        config: The objective, its temperature and `logit_chunk`.
        target_N: The sampled ids, for the log, sampled_rkl and is_clip.
        served_N: Their log-probs on the server (nats; NaN: unknown), for is_clip.
        aux: Hidden states and weight of each distribution that `targets.auxiliaries` names.
        teacher_mix: (hidden, weight, c): the teacher's logits become (1−c) of its own and c of these.
        vocab_size: Ids from there on are padding and take no part; None: all, and the weights must agree.
        with_statistics: Give what the training log sums, too.

    Raises:
        ValueError: Shapes that don't fit (a weight that ZeRO-3 has released), or something needed isn't given.
    """
    needed = auxiliaries(config)
    others = {name: head for name, head in (aux or {}).items() if name in needed}
    _check_inputs(config, needed, others, target_N, served_N)
    heads = {"teacher": (teacher_hidden_NH, teacher_weight_VH), **others}
    if teacher_mix is not None:
        heads["mixed teacher"] = teacher_mix[:2]
    vocab_size = _checked_vocabulary({"student": weight_VH} | {n: w for n, (_, w) in heads.items()}, vocab_size)
    rows = {"student": hidden_NH, "weights": token_weight_N} | {name: h for name, (h, _) in heads.items()}
    _check_rows(rows | {n: t for n, t in (("targets", target_N), ("served", served_N)) if t is not None})
    constants = _Constants(
        {name: (h.detach(), w.detach()[:vocab_size]) for name, (h, w) in heads.items()},
        tuple(others),
        0.0 if teacher_mix is None else teacher_mix[2],
        token_weight_N.detach(),
        target_N,
        served_N,
        config,
    )
    loss, sums, logprob_N, reverse_kl_N = _FusedLinearDivergence.apply(
        hidden_NH, weight_VH, constants, vocab_size, with_statistics, torch.is_grad_enabled()
    )
    if not with_statistics:
        return FusedResult(loss)
    return FusedResult(loss, sums, None if target_N is None else logprob_N, reverse_kl_N)


class _Constants(NamedTuple):
    """What gets no gradient. `heads`: the teacher's, the mixed teacher's, the auxiliary ones by name."""

    heads: dict[str, Head]
    aux: tuple[str, ...]
    mix: float
    token_weight_N: Tensor
    target_N: Tensor | None
    served_N: Tensor | None
    config: DistillConfig


class _FusedLinearDivergence(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        constants: _Constants,
        vocab_size: int,
        with_statistics: bool,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(hidden_NH.dtype, torch.float32)
        N = hidden_NH.shape[0]
        buffers = _Buffers(hidden_NH, vocab_size, dtype, constants)
        student_VH, token_weight_N = weight_VH[:vocab_size], constants.token_weight_N.to(dtype)
        loss = hidden_NH.new_zeros((), dtype=dtype)
        needs_hidden, needs_weight = (grad_enabled and needed for needed in ctx.needs_input_grad[:2])
        grad_hidden_NH = torch.empty_like(hidden_NH) if needs_hidden else None
        grad_weight_VH = torch.zeros_like(weight_VH, dtype=dtype) if needs_weight else None
        found: list[dict[str, Tensor]] = []

        for start in range(0, N, buffers.chunk):
            rows = slice(start, min(start + buffers.chunk, N))
            logits = _project_tile(hidden_NH, student_VH, constants, rows, buffers)
            for first in range(start, rows.stop, buffers.block):
                block = slice(first, min(first + buffers.block, rows.stop))
                part = _block_loss(logits, block, start, buffers, constants, token_weight_N[block], with_statistics)
                loss += part.loss
                found.append(part.found)
            if grad_hidden_NH is not None:
                grad_input(logits["student"], student_VH, grad_hidden_NH[rows])
            if grad_weight_VH is not None:
                add_weight_gradient(logits["student"], hidden_NH[rows], grad_weight_VH[:vocab_size])

        sums, logprob_N, reverse_kl_N = (
            _sum_statistics(found, token_weight_N) if with_statistics else [loss.new_empty(0)] * 3
        )
        ctx.gradients, ctx.weight_dtype = (grad_hidden_NH, grad_weight_VH), weight_VH.dtype
        ctx.mark_non_differentiable(sums, logprob_N, reverse_kl_N)
        return loss, sums, logprob_N, reverse_kl_N

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the fused loss's gradient was taken already: run the forward again")
        (grad_hidden_NH, grad_weight_VH), ctx.gradients = ctx.gradients, None
        if grad_loss.is_cuda or grad_loss.item() != 1:  # a GPU would have to be waited for
            for grad in (grad_hidden_NH, grad_weight_VH):
                if grad is not None:
                    grad.mul_(grad_loss)
        if grad_weight_VH is not None:
            grad_weight_VH = grad_weight_VH.to(ctx.weight_dtype)
        return (grad_hidden_NH, grad_weight_VH, *[None] * 4)


class _Buffers:
    """The memory every tile uses again: `[chunk, V]` for each side's logits, and scratch for a block of rows."""

    def __init__(self, like: Tensor, vocab_size: int, dtype: torch.dtype, constants: _Constants) -> None:
        N, config = like.shape[0], constants.config
        self.chunk = max(1, min(tile_rows(config.logit_chunk, like.device), N))
        sides = ["student", "teacher", *constants.aux] + ["mixed teacher"] * ("mixed teacher" in constants.heads)
        self.of = {name: like.new_empty(self.chunk, vocab_size, dtype=dtype) for name in sides}
        self.kernel = kernel_of(config, self.of["student"], N * vocab_size)
        self.block = block_rows(self.kernel, vocab_size, like.device, self.chunk)
        scratch_rows = self.block if self.kernel in (None, "torch") else 0
        self.scratch = [like.new_empty(scratch_rows, vocab_size, dtype=dtype) for _ in range(2)]


def _project_tile(
    hidden_NH: Tensor, student_VH: Tensor, constants: _Constants, rows: slice, buffers: _Buffers
) -> dict[str, Tensor]:
    """Logits `[n, V]` of the tile's tokens by name: student, teacher, each auxiliary distribution."""
    heads = {"student": (hidden_NH, student_VH), **constants.heads}
    logits = {name: buffers.of[name][: rows.stop - rows.start] for name in heads}
    for name, (hidden, weight_VH) in heads.items():
        project(hidden[rows], weight_VH, logits[name])
    if "mixed teacher" in heads:
        logits["teacher"].lerp_(logits.pop("mixed teacher"), constants.mix)
    return logits


def _block_loss(
    logits: dict[str, Tensor],
    block: slice,
    tile_start: int,
    buffers: _Buffers,
    constants: _Constants,
    token_weight_n: Tensor,
    with_statistics: bool,
) -> TileLoss:
    """The loss of some of the tile's rows; their student logits become the gradient."""
    of = {name: side_nV[block.start - tile_start : block.stop - tile_start] for name, side_nV in logits.items()}
    tile = Tile(of["student"], of["teacher"], *(scratch[: block.stop - block.start] for scratch in buffers.scratch))
    part = tile_loss(
        tile,
        {name: of[name] for name in constants.aux},
        token_weight_n,
        constants.config,
        buffers.kernel,
        target_n=None if constants.target_N is None else constants.target_N[block],
        served_n=None if constants.served_N is None else constants.served_N[block],
        with_statistics=with_statistics,
    )
    if part.grad.data_ptr() != of["student"].data_ptr():
        of["student"].copy_(part.grad)
    return part


def _sum_statistics(found: list[dict[str, Tensor]], token_weight_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of the statistics, and the tokens' log-probs and reverse KLs, from those of all blocks in order."""
    counted_N = token_weight_N > 0
    sums = token_weight_N.new_zeros(len(STATISTICS), dtype=torch.float64)
    sums[0] = counted_N.sum()
    whole = {name: torch.cat([part[name] for part in found]) for name in (found[0] if found else ())}
    for index, name in enumerate(STATISTICS[1:], start=1):
        if name in whole:
            sums[index] = (whole[name].double() * counted_N).sum()
    nothing_N = torch.zeros_like(token_weight_N)
    return sums, whole.get("student_logprob", nothing_N), whole.get("reverse_kl", nothing_N)


def _check_inputs(
    config: DistillConfig,
    needed: tuple[str, ...],
    given: Mapping[str, Head],
    target_N: Tensor | None,
    served_N: Tensor | None,
) -> None:
    if missing := [name for name in needed if name not in given]:
        raise ValueError(f"the objective reads the distributions {missing}: give their hidden states in `aux`")
    if target_N is None and (config.divergence == "sampled_rkl" or config.is_clip is not None):
        raise ValueError("distill.divergence=sampled_rkl and distill.is_clip need the sampled ids, target_N")
    if served_N is None and config.is_clip is not None:
        raise ValueError("distill.is_clip needs the server's log-probs of the sampled ids, served_N")


def _checked_vocabulary(weights: Mapping[str, Tensor], vocab_size: int | None) -> int:
    for role, weight in weights.items():
        if weight.dim() != 2:
            raise ValueError(
                f"the {role}'s output weight has shape {tuple(weight.shape)}, not [V, H]: under ZeRO-3 it must be "
                "gathered while the loss is computed (DistillHead for the student, gathered_weight for the teacher)"
            )
    counts = {role: weight.shape[0] for role, weight in weights.items()}
    if vocab_size is None and len(set(counts.values())) > 1:
        found = ", ".join(f"{role} {count}" for role, count in counts.items())
        raise ValueError(f"output rows differ ({found}): give vocab_size, what all share")
    vocab_size = counts["student"] if vocab_size is None else vocab_size
    if not 0 < vocab_size <= min(counts.values()):
        raise ValueError(f"vocab_size {vocab_size} is not within the {list(counts.values())} output rows")
    return vocab_size


def _check_rows(rows: Mapping[str, Tensor]) -> None:
    counts = {name: tensor.shape[0] for name, tensor in rows.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"rows differ: {', '.join(f'{name} {count}' for name, count in counts.items())}")
