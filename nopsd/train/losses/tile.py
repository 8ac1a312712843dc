"""One tile of the fused loss: divergence, its gradient in closed form and the log's statistics, in place.

A tile is n tokens by the whole vocabulary. Three buffers `[n, V]` are all that is ever held: the student's
log-probabilities, the teacher's, and one of scratch; `full_support` has the usual objectives from raw logits. With
d = log p − log q, the gradients with respect to the student's scaled logits z are:

    reverse KL   p (d − KL(p‖q))
    forward KL   p − q
    JSD β        (1−β) p (log p/m − KL(p‖m)),   log p/m = −log(β e^−d + 1−β)

The values add Σq − Σp (reverse) or Σp − Σq (forward), which is 0 for true distributions. That is the
Bregman form of the divergence: the rounding of float32 normalisers then enters squared and not as it is, so
that equal distributions give 0 and not ±1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from nopsd.train.losses.divergence import canonical
from nopsd.train.losses.overlap import largest, overlap

# What the training log sums over tokens, in the order of FusedResult.sums.
STATISTICS = (
    "tokens",  # rows with a weight above 0
    "reverse_kl",
    "forward_kl",
    "student_entropy",
    "teacher_entropy",
    "student_logprob",  # log p of the sampled token, at the loss's temperature
    "teacher_logprob",  # log q of it
    "top16_overlap",  # |top16(p) ∩ top16(q)| / 16
    "top16_student_mass",  # Σ p over that intersection
    "top16_teacher_mass",  # Σ q over it
    "base_kl",  # KL(p ‖ p_base), with distill.kl_base_coef
    "clip_frac",  # tokens with a term capped by pointwise_clip, or capped by token_clip
    "neg_frac",  # tokens of a loss below 0, after the clips
    "mask_frac",  # tokens left out by mask_high_entropy
    "is_ratio",  # the importance ratio, as capped by is_clip
)


@dataclass
class Tile:
    """Logits or log-probabilities of n tokens, and scratch of the same shape `[n, V]`; no rows where none is needed."""

    student: Tensor
    teacher: Tensor
    scratch: Tensor
    second_scratch: Tensor | None = None

    def normalise(self, temperature: float, others: Iterable[Tensor] = ()) -> None:
        """In place, logits to log-probabilities; also those of `others`. Uses the scratch."""
        for logits_nV in (self.student, self.teacher, *others):
            logits_nV.sub_(logits_nV.amax(-1, keepdim=True))
            if temperature != 1.0:
                logits_nV.div_(temperature)
            logits_nV.sub_(torch.exp(logits_nV, out=self.scratch).sum(-1, keepdim=True).log_())


@dataclass
class TileValues:
    """Per token `[n]`: the loss, both KLs (None if not asked for), whether a term of it was capped (None: can't be).

    `grad` `[n, V]` is one of the tile's buffers.
    """

    loss: Tensor
    grad: Tensor
    reverse: Tensor | None
    forward: Tensor | None
    capped: Tensor | None = None


def divergence_and_gradient(tile: Tile, kind: str, beta: float, both: bool = False) -> TileValues:
    """Loss and its gradient by the student's scaled logits, in closed form.

    Args:
        tile: Log-probabilities [n, V]; overwritten.
        kind: `reverse_kl`, `forward_kl` or `jsd`.
        beta: Of jsd.
        both: Give both KLs as well.
    """
    kind = canonical(kind, beta)
    p, d, q = torch.exp(tile.student, out=tile.scratch), tile.student.sub_(tile.teacher), tile.teacher.exp_()
    excess = q.sum(-1) - p.sum(-1)
    if kind == "reverse_kl":
        forward = -dot(q, d) - excess if both else None
        raw = dot(p, d)  # not corrected: it and d hold the same normaliser error, which cancels in the gradient
        return TileValues(raw + excess, d.sub_(raw[:, None]).mul_(p), raw + excess, forward)
    reverse = dot(p, d) + excess if both else None
    raw = -dot(q, d)
    if kind == "forward_kl":
        return TileValues(raw - excess, p.sub_(q), reverse, raw - excess)
    loss, grad = _jsd(p, q, d, raw, beta)
    return TileValues(loss, grad, reverse, raw - excess)


def statistics(tile: Tile, target_n: Tensor | None) -> dict[str, Tensor]:
    """What has to be read from the log-probabilities before they are overwritten; each `[n]`. Uses the scratch."""
    found = {
        "teacher_entropy": -dot(torch.exp(tile.teacher, out=tile.scratch), tile.teacher),
        "student_entropy": -dot(torch.exp(tile.student, out=tile.scratch), tile.student),
    }
    if target_n is not None:
        found["student_logprob"] = tile.student.gather(-1, target_n[:, None])[:, 0]
        found["teacher_logprob"] = tile.teacher.gather(-1, target_n[:, None])[:, 0]
    student, teacher = largest(tile.student), largest(tile.teacher)
    return found | overlap(student.ids, teacher.ids, student.values, teacher.values)


def _jsd(p: Tensor, q: Tensor, d: Tensor, forward_raw: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Value and gradient; needs no correction, as Σm = β Σq + (1−β) Σp by construction. Overwrites d."""
    log_ratio = d.neg_().add_(math.log(beta))  # in place: log p/m
    torch.logaddexp(log_ratio, log_ratio.new_tensor(math.log1p(-beta)), out=log_ratio)
    log_ratio.neg_()
    student_part = dot(p, log_ratio)  # KL(p‖m)
    teacher_part = dot(q, log_ratio) + forward_raw  # KL(q‖m), log q/m = log p/m − d
    loss = beta * teacher_part + (1 - beta) * student_part
    return loss, log_ratio.sub_(student_part[:, None]).mul_(p).mul_(1 - beta)


def dot(a_nV: Tensor, b_nV: Tensor) -> Tensor:
    """Σ_v a b without the product's buffer."""
    if a_nV.device.type == "cpu" and len(a_nV):  # a CPU's batched product takes four times as long
        return torch.stack([torch.dot(a_V, b_V) for a_V, b_V in zip(a_nV, b_nV)])
    return torch.einsum("nv,nv->n", a_nV, b_nV)
