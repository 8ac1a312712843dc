"""Divergence from hidden states, in tiles, with the gradients formed in the forward.

    loss = Σ_n token_weight_n · D(softmax(h_n Wᵀ/τ), softmax(h'_n W'ᵀ/τ))

h, W the student's hidden states and output weight, h', W' the teacher's. For each tile of `logit_chunk` tokens
both sides are projected, the loss and ∂loss/∂logits are formed in place (a block of rows at a time), and at once
multiplied into ∂loss/∂h and ∂loss/∂W: four vocabulary products in all and none in the backward, which only
scales. Two tile buffers; each auxiliary distribution (`targets`) and a mixed teacher is one product and one tile
buffer more. No `[N, V]` tensor with N above the chunk exists. bfloat16 inputs are projected and normalised in float32.

Shapes: N response tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nopsd.config import DistillConfig
from nopsd.engine.products import GradientsInForward, add_weight_gradient, grad_input, project, tile_rows
from nopsd.traces.schema import TOKEN_VALUES
from nopsd.train.losses.full_support import BLOCK_ELEMENTS, GPU_BLOCK_ELEMENTS, full_support_loss, kernel_of
from nopsd.train.losses.objective import tile_loss
from nopsd.train.losses.tile import STATISTICS, Tile

MIXED = "mixed teacher"
Head = tuple[Tensor, Tensor]  # hidden states [N, H'] and the output weight [V, H'] that makes logits of them


@dataclass(frozen=True)
class DistillInputs:
    """What the loss reads beside the student, row by row; none of it gets a gradient. Weight None: the student's own.

    Args:
        teacher_hidden_NH: The teacher's final hidden states at the N response tokens.
        teacher_weight_VH: Its output weight, whole: under ZeRO-3 inside `gathered_weight`.
        token_weight_N: What each token counts; statistics leave out those of weight 0.
        target_N: The sampled ids, for the log, sampled_rkl and is_clip.
        served_N: Their log-probs on the server (nats; NaN: unknown), for is_clip.
        aux_hidden: Hidden states of each distribution that `tile.auxiliaries` names, by the teacher's weight.
        teacher_mix: (hidden, weight, c): the teacher's logits become (1−c) of its own and c of these.
        with_statistics: Give what the training log sums, too.
        policy_N: c of rows whose loss is c log p(y) in place of the divergence; NaN: the divergence.
    """

    teacher_hidden_NH: Tensor
    teacher_weight_VH: Tensor | None
    token_weight_N: Tensor
    target_N: Tensor | None = None
    served_N: Tensor | None = None
    aux_hidden: Mapping[str, Tensor] = field(default_factory=dict)
    teacher_mix: tuple[Tensor, Tensor | None, float] | None = None
    with_statistics: bool = True
    policy_N: Tensor | None = None


class FusedResult(NamedTuple):
    """A tuple, since ZeRO-3's hooks find tensors in tuples and not in dataclasses."""

    loss: Tensor  # scalar, at least float32; carries gradients to the hidden states and the weight
    sums: Tensor | None = None  # float64 [len(STATISTICS)]: sums over tokens, to be added over micro-batches and ranks
    student_logprob_N: Tensor | None = None  # log p of the sampled tokens, detached; None without statistics or targets
    reverse_kl_N: Tensor | None = None  # each token's KL(student ‖ teacher), detached; None without statistics
    by_token_KN: Tensor | None = None  # rows as TOKEN_VALUES, detached; NaN: not computed. None without statistics
    forward_kl_N: Tensor | None = None  # each token's KL(teacher ‖ student), likewise


def fused_linear_divergence(
    hidden_NH: Tensor, weight_VH: Tensor, inputs: DistillInputs, config: DistillConfig, vocab_size: int | None = None
) -> FusedResult:
    """Weighted sum of divergences over tokens (the paper's Eqs. 7 to 10), from hidden states, without a [N, V] tensor.

    Gradients go to `hidden_NH` and `weight_VH` alone, and can be taken once. N may be 0: the loss is 0 and still
    connected, so that a ZeRO rank without tokens enters the backward like the others.

    Args:
        hidden_NH, weight_VH: The student's final hidden states at the N response tokens, and its output weight.
        inputs: The teacher's, and what else the objective reads.
        config: The objective, its temperature and `logit_chunk`.
        vocab_size: Ids from there on are padding and take no part; None: all, and the weights must agree.

    Raises:
        ValueError: Shapes that don't fit (a weight that ZeRO-3 has released), or something needed isn't given.
    """
    taught_VH = weight_VH if inputs.teacher_weight_VH is None else inputs.teacher_weight_VH
    heads = {"student": (hidden_NH, weight_VH), "teacher": (inputs.teacher_hidden_NH, taught_VH)}
    heads |= {name: (aux_NH, taught_VH) for name, aux_NH in inputs.aux_hidden.items()}
    if inputs.teacher_mix is not None:
        mixed_NH, mixed_VH, _ = inputs.teacher_mix
        heads[MIXED] = mixed_NH, weight_VH if mixed_VH is None else mixed_VH
    vocab_size = _checked_vocabulary(heads, inputs, vocab_size)
    heads = {name: (h.detach(), w.detach()[:vocab_size]) for name, (h, w) in heads.items()}
    loss, sums, by_token_KN = _FusedLinearDivergence.apply(
        hidden_NH, weight_VH, heads, inputs, config, torch.is_grad_enabled()
    )
    if not inputs.with_statistics:
        return FusedResult(loss)
    logprob_N = None if inputs.target_N is None else by_token_KN[TOKEN_VALUES.index("student_logprob")]
    reverse_N = by_token_KN[TOKEN_VALUES.index("reverse_kl")]
    return FusedResult(loss, sums, logprob_N, reverse_N, by_token_KN[:-1], by_token_KN[-1])


class _FusedLinearDivergence(GradientsInForward):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        heads: dict[str, Head],
        inputs: DistillInputs,
        config: DistillConfig,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype, student_VH = torch.promote_types(hidden_NH.dtype, torch.float32), heads["student"][1]
        N, vocab_size = len(hidden_NH), len(student_VH)
        chunk = max(1, min(tile_rows(config.logit_chunk, hidden_NH.device), N))
        buffers = {name: hidden_NH.new_empty(chunk, vocab_size, dtype=dtype) for name in heads}  # for every tile anew
        kernel = kernel_of(config, buffers["student"], N * vocab_size) if inputs.policy_N is None else None
        block = chunk
        if kernel != "triton":
            elements = BLOCK_ELEMENTS[kernel or "torch"] if hidden_NH.device.type == "cpu" else GPU_BLOCK_ELEMENTS
            block = max(1, min(chunk, elements // vocab_size))
        scratch_rows = block if kernel in (None, "torch") else 0
        scratch = [hidden_NH.new_empty(scratch_rows, vocab_size, dtype=dtype) for _ in range(2)]
        token_weight_N = inputs.token_weight_N.detach().to(dtype)
        loss, found = hidden_NH.new_zeros((), dtype=dtype), list[dict[str, Tensor]]()
        needs_hidden, needs_weight = (grad_enabled and needed for needed in ctx.needs_input_grad[:2])
        grad_hidden_NH = torch.empty_like(hidden_NH) if needs_hidden else None
        grad_weight_VH = torch.zeros_like(weight_VH, dtype=dtype) if needs_weight else None

        for start in range(0, N, chunk):
            rows = slice(start, min(start + chunk, N))
            logits = {name: buffer[: rows.stop - start] for name, buffer in buffers.items()}
            for name, (side_NH, side_VH) in heads.items():
                project(side_NH[rows], side_VH, logits[name])
            if inputs.teacher_mix is not None:
                logits["teacher"].lerp_(logits.pop(MIXED), inputs.teacher_mix[2])
            for first in range(start, rows.stop, block):
                of_block = slice(first, min(first + block, rows.stop))
                tile = _tile_of(logits, of_block, start, scratch, inputs, token_weight_N)
                part = full_support_loss(tile, config, kernel) if kernel else tile_loss(tile, config)
                loss += part.loss
                found.append(part.found)
            grad_nV = logits["student"]
            if grad_hidden_NH is not None:
                grad_input(grad_nV, student_VH, grad_hidden_NH[rows])
            if grad_weight_VH is not None:
                add_weight_gradient(grad_nV, hidden_NH[rows], grad_weight_VH[:vocab_size])

        sums = by_token_KN = loss.new_empty(0)
        if inputs.with_statistics:
            sums, by_token_KN = _sum_statistics(found, token_weight_N)
        ctx.gradients, ctx.weight_dtype, ctx.others = (grad_hidden_NH, grad_weight_VH), weight_VH.dtype, 4
        ctx.mark_non_differentiable(sums, by_token_KN)
        return loss, sums, by_token_KN


def _tile_of(
    logits: dict[str, Tensor],
    block: slice,
    start: int,
    scratch: list[Tensor],
    inputs: DistillInputs,
    token_weight_N: Tensor,
) -> Tile:
    """Some rows of the tile that begins at `start`, with all that the objective reads of them."""
    of = {name: side_nV[block.start - start : block.stop - start] for name, side_nV in logits.items()}
    first, second = (buffer[: block.stop - block.start] for buffer in scratch)
    return Tile(
        of.pop("student"),
        of.pop("teacher"),
        first,
        second,
        of,
        token_weight_N[block],
        None if inputs.target_N is None else inputs.target_N[block],
        None if inputs.served_N is None else inputs.served_N[block],
        inputs.with_statistics,
        None if inputs.policy_N is None else inputs.policy_N[block],
    )


def _sum_statistics(found: list[dict[str, Tensor]], token_weight_N: Tensor) -> tuple[Tensor, Tensor]:
    """From those of all blocks in order: sums, and the tokens' own as TOKEN_VALUES lists them, then the forward KL."""
    counted_N = token_weight_N > 0
    sums = token_weight_N.new_zeros(len(STATISTICS), dtype=torch.float64)
    sums[0] = counted_N.sum()
    whole = {name: torch.cat([part[name] for part in found]) for name in (found[0] if found else ())}
    for index, name in enumerate(STATISTICS[1:], start=1):
        if name in whole:
            sums[index] = (whole[name].double() * counted_N).sum()
    nothing_N = torch.full_like(token_weight_N, math.nan)
    return sums, torch.stack([whole.get(name, nothing_N) for name in (*TOKEN_VALUES, "forward_kl")])


def _checked_vocabulary(heads: Mapping[str, Head], inputs: DistillInputs, vocab_size: int | None) -> int:
    """The ids that take part. ValueError for rows or weights that don't go together."""
    counts = {role: len(hidden) for role, (hidden, _) in heads.items()} | {"weights": len(inputs.token_weight_N)}
    counts |= {n: len(t) for n, t in (("targets", inputs.target_N), ("served", inputs.served_N)) if t is not None}
    if len(set(counts.values())) > 1:
        raise ValueError(f"rows differ: {', '.join(f'{name} {count}' for name, count in counts.items())}")
    for role, (_, weight) in heads.items():
        if weight.dim() != 2:
            raise ValueError(
                f"the {role}'s output weight has shape {tuple(weight.shape)}, not [V, H]: under ZeRO-3 it must be "
                "gathered while the loss is computed (DistillHead for the student, gathered_weight for the teacher)"
            )
    counts = {role: len(weight) for role, (_, weight) in heads.items()}
    if vocab_size is None and len(set(counts.values())) > 1:
        found = ", ".join(f"{role} {count}" for role, count in counts.items())
        raise ValueError(f"output rows differ ({found}): give vocab_size, what all share")
    vocab_size = counts["student"] if vocab_size is None else vocab_size
    if not 0 < vocab_size <= min(counts.values()):
        raise ValueError(f"vocab_size {vocab_size} is not within the {list(counts.values())} output rows")
    return vocab_size
