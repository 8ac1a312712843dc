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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from nopsd.config import DistillConfig

BASE, CTX_ONLY, RANDOM_CTX = "base", "ctx_only", "random_ctx"
OTHER_PROMPTS = (CTX_ONLY, RANDOM_CTX)  # auxiliaries with prompts of their own: `Distillation.aux_prompts`
OVERLAP_K = 16
MEMBERS = 128  # of a group in `largest`: every V // MEMBERS-th id
LOG_RATIO_BOUND = 20.0  # before exp, so that no ratio overflows
NEGATIVE = -1e-6  # losses below count in neg_frac; nearer to 0 is float32's rounding
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
    """n tokens. Both sides and `aux` by name: logits or log-probabilities `[n, V]`; scratch of the same shape, no rows
    where none is needed. `token_weight`, the sampled ids `target`, their log-probs on the server `served`: `[n]`.
    """

    student: Tensor
    teacher: Tensor
    scratch: Tensor
    second_scratch: Tensor | None = None
    aux: Mapping[str, Tensor] = field(default_factory=dict)
    token_weight: Tensor | None = None
    target: Tensor | None = None
    served: Tensor | None = None
    with_statistics: bool = False
    policy: Tensor | None = None  # [n], as `DistillInputs.policy_N`

    def normalise(self, temperature: float, others: Iterable[Tensor] = ()) -> None:
        """In place, logits to log-probabilities; also those of `others`. Uses the scratch."""
        for logits_nV in (self.student, self.teacher, *others):
            logits_nV.sub_(logits_nV.amax(-1, keepdim=True))
            if temperature != 1.0:
                logits_nV.div_(temperature)
            logits_nV.sub_(torch.exp(logits_nV, out=self.scratch).sum(-1, keepdim=True).log_())


@dataclass
class TileLoss:
    """`loss` is a scalar, `found` what the log reads of each token `[n]`; the gradient is in the student's place."""

    loss: Tensor
    found: dict[str, Tensor]


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


def auxiliaries(config: DistillConfig) -> tuple[str, ...]:
    """The auxiliary distributions that the objective reads beside the student's and the teacher's."""
    base = config.kl_base_coef > 0 or config.target == "pmi"
    wanted = {BASE: base, CTX_ONLY: config.target == "pmi", RANDOM_CTX: config.contrast is not None}
    return tuple(name for name, needed in wanted.items() if needed)


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


def statistics(tile: Tile) -> dict[str, Tensor]:
    """What has to be read from the log-probabilities before they are overwritten; each `[n]`. Uses the scratch."""
    found = {
        "teacher_entropy": -dot(torch.exp(tile.teacher, out=tile.scratch), tile.teacher),
        "student_entropy": -dot(torch.exp(tile.student, out=tile.scratch), tile.student),
    }
    if tile.target is not None:
        found["student_logprob"] = tile.student.gather(-1, tile.target[:, None])[:, 0]
        found["teacher_logprob"] = tile.teacher.gather(-1, tile.target[:, None])[:, 0]
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


def canonical(kind: str, beta: float) -> str:
    """The formula that a name means: jsd's ends are the two KLs.

    Args:
        kind: `distill.divergence`, one of reverse_kl, forward_kl, jsd.
        beta: `distill.beta`.

    Raises:
        ValueError: Another kind, or β outside [0, 1].
    """
    if kind in ("reverse_kl", "forward_kl"):
        return kind
    if kind != "jsd":
        raise ValueError(f"divergence {kind!r}: use reverse_kl, forward_kl or jsd (sampled_rkl needs the sampled ids)")
    if not 0 <= beta <= 1:
        raise ValueError(f"jsd's beta is {beta}: it must lie between 0 (forward KL) and 1 (reverse KL)")
    return {0.0: "forward_kl", 1.0: "reverse_kl"}.get(float(beta), "jsd")


@dataclass
class ClippedTokens:
    """Losses `[n]`, what each token's gradient is multiplied by `[n]`, and what the log reads `[n]` by name."""

    loss: Tensor
    factor: Tensor
    found: dict[str, Tensor] = field(default_factory=dict)


def clip_tokens(
    values: TileValues, tile: Tile, config: DistillConfig, entropy_n: Tensor | None, logprob_n: Tensor | None
) -> ClippedTokens:
    """What the objective does to whole tokens' losses, each thing off by default:

    token_clip         ℓ_t ← min(ℓ_t, c); no gradient where it is capped
    mask_high_entropy  a threshold in nats: ℓ_t ← 0 where the student's entropy is above it. A share of the
                       positions would need the entropies of all ranks before any loss; a
                       threshold gives the same loss however the step is split. Masked tokens count on in the
                       denominator of the mean, which is known before the forward
    is_clip            ℓ_t ← ℓ_t · min(exp(log p_θ(y_t) − log p_rollout(y_t)), c), the ratio detached; 1 where the
                       server's log-prob is unknown. Comes last

    Args:
        values: Losses, before clips.
        tile: The server's log-probs of the sampled tokens (NaN: unknown), for the ratio.
        config: `token_clip`, `mask_high_entropy`, `is_clip`.
        entropy_n: The student's entropy in nats, for the mask.
        logprob_n: The student's log-probs of the sampled tokens, for the ratio.

    Raises:
        ValueError: is_clip lacks one of them.
    """
    loss_n, factor_n = values.loss, torch.ones_like(values.loss)
    capped_n, found = values.capped, {}
    if config.token_clip is not None:
        over_n = loss_n > config.token_clip
        capped_n = over_n if capped_n is None else capped_n | over_n
        loss_n, factor_n = loss_n.clamp_max(config.token_clip), factor_n.masked_fill(over_n, 0.0)
    if config.mask_high_entropy is not None:
        assert entropy_n is not None
        masked_n = found["mask_frac"] = entropy_n > config.mask_high_entropy
        loss_n, factor_n = loss_n.masked_fill(masked_n, 0.0), factor_n.masked_fill(masked_n, 0.0)
    found["neg_frac"] = loss_n < NEGATIVE
    if capped_n is not None:
        found["clip_frac"] = capped_n
    if config.is_clip is not None:
        if logprob_n is None or tile.served is None:
            missing = (
                "sampled ids, target_N" if logprob_n is None else "server's log-probs of the sampled ids, served_N"
            )
            raise ValueError(f"distill.is_clip needs the {missing}")
        ratio_n = found["is_ratio"] = importance_ratio(logprob_n, tile.served, config.is_clip)
        loss_n, factor_n = loss_n * ratio_n, factor_n * ratio_n
    return ClippedTokens(loss_n, factor_n, found)


def importance_ratio(logprob_n: Tensor, served_n: Tensor, cap: float) -> Tensor:
    """min(p_θ(y) / p_rollout(y), cap) of each token.

    Args:
        logprob_n: The student's log-probs, in nats.
        served_n: The server's; NaN where it gave none, for a ratio of 1.
        cap: The largest ratio.
    """
    gap_n = torch.nan_to_num(logprob_n - served_n.to(logprob_n.dtype), nan=0.0)
    return gap_n.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp().clamp_max(cap)


class Top(NamedTuple):
    """The k largest of each row, falling, and their ids; both [n, k]."""

    values: Tensor
    ids: Tensor


def largest(values_nV: Tensor, k: int = OVERLAP_K) -> Top:
    """As `torch.topk`, and the same in every way but for which of equal values is taken."""
    n, size = values_nV.shape
    k, groups = min(k, size), size // MEMBERS
    if groups <= 2 * k:
        return Top(*values_nV.topk(k))
    grouped_nmg = values_nV[:, : groups * MEMBERS].unflatten(1, (MEMBERS, groups))
    chosen_nk = grouped_nmg.amax(1).topk(k).indices
    members_nmk = grouped_nmg.gather(2, chosen_nk[:, None].expand(n, MEMBERS, k))
    rest_nr = values_nV[:, groups * MEMBERS :]
    found = torch.cat([members_nmk.flatten(1), rest_nr], 1).topk(k)
    place_nk = found.indices.clamp_max(MEMBERS * k - 1)
    inside_nk = place_nk // k * groups + chosen_nk.gather(1, place_nk % k)
    outside_nk = found.indices + (groups * MEMBERS - MEMBERS * k)
    return Top(found.values, torch.where(found.indices < MEMBERS * k, inside_nk, outside_nk))


def overlap(
    student_ids_nk: Tensor, teacher_ids_nk: Tensor, student_logp_nk: Tensor, teacher_logp_nk: Tensor
) -> dict[str, Tensor]:
    """Share of common ids among both sides' top ids, and each side's mass on them.

    Args:
        student_ids_nk: Top ids of the student; `teacher_ids_nk` of the teacher.
        student_logp_nk: Their log-probs under the student; `teacher_logp_nk` of the teacher's ids under the teacher.
    """
    shared_nkk = student_ids_nk[:, :, None] == teacher_ids_nk[:, None, :]
    in_teacher, in_student = shared_nkk.any(2), shared_nkk.any(1)
    return {
        "top16_overlap": in_teacher.to(student_logp_nk.dtype).mean(-1),
        "top16_student_mass": (student_logp_nk.exp() * in_teacher).sum(-1),
        "top16_teacher_mass": (teacher_logp_nk.exp() * in_student).sum(-1),
    }
