"""The distillation objective of one token in plain Python, from probabilities: the reference that shares no code.

`p` is the live student, `frozen` the same numbers held constant: what the method detaches is read from `frozen`.
So finite differences in `p` alone are the gradient the method means, stop-gradients included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from nopsd.config import DistillConfig

Probabilities = Sequence[float]


def softmax(logits: Sequence[float]) -> list[float]:
    top = max(logits)
    exps = [math.exp(z - top) for z in logits]
    total = sum(exps)
    return [e / total for e in exps]


def normalised(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    return [w / total for w in weights]


def kl(p: Probabilities, q: Probabilities) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q))


def target(c: DistillConfig, frozen: Probabilities, q: Probabilities, aux: dict[str, Probabilities]) -> Probabilities:
    """The targets, as `nopsd.train.losses.targets` reads them."""
    if c.contrast:
        return normalised([s * a / b for s, a, b in zip(frozen, q, aux["random_ctx"])])
    if c.target == "pmi":
        r = [math.log(a / b) for a, b in zip(q, aux["ctx_only"])]
        mean = sum(b * x for b, x in zip(aux["base"], r))
        lifted = [c.pmi_clip * math.tanh((x - mean) / c.pmi_clip) / c.pmi_beta for x in r]
        return normalised([b * math.exp(x) for b, x in zip(aux["base"], lifted)])
    if c.target == "barycenter":
        m = [(a + b) / 2 for a, b in zip(frozen, q)]
        jsd = kl(frozen, m) / 2 + kl(q, m) / 2
        alpha = (1 / (1 + math.exp(-c.barycenter_beta * jsd)) - 0.5) * 2 * c.barycenter_alpha
        return normalised([b ** (1 - alpha) * a**alpha for a, b in zip(frozen, q)])
    return q


def terms(c: DistillConfig, p: Probabilities, frozen: Probabilities, q: Probabilities) -> list[float]:
    """The divergence's terms over the classes of the support; the top-k is chosen by constants."""
    if c.support == "topk":
        chooser = frozen if c.topk_of == "student" else q
        ids = sorted(range(len(q)), key=lambda v: -chooser[v])[: c.topk]
        p, frozen, q = (classes(c.tail, side, ids) for side in (p, frozen, q))
        if c.tail == "stopgrad":
            return [a * math.log(f / b) for a, f, b in zip(p, frozen, q)]
    if c.divergence == "reverse_kl":
        return [a * math.log(a / b) for a, b in zip(p, q)]
    if c.divergence == "forward_kl":
        return [b * math.log(b / a) for a, b in zip(p, q)]
    found = []
    for a, b in zip(p, q):
        m = c.beta * b + (1 - c.beta) * a
        found.append(c.beta * b * math.log(b / m) + (1 - c.beta) * a * math.log(a / m))
    return found


def classes(tail: str, side: Probabilities, ids: list[int]) -> list[float]:
    top = [side[v] for v in ids]
    if tail == "renorm":
        return normalised(top)
    return [*top, sum(x for v, x in enumerate(side) if v not in ids)] if tail == "bucket" else top


def token_loss(
    c: DistillConfig,
    p: Probabilities,
    frozen: Probabilities,
    teacher: Probabilities,
    aux: dict[str, Probabilities],
    y: int,
    served: float,
) -> float:
    """ℓ with its clips, mask and ratio, plus the pull to the base."""
    q = target(c, frozen, teacher, aux)
    if c.divergence == "sampled_rkl":
        loss = math.log(frozen[y] / q[y]) * math.log(p[y])
    else:
        cap = math.inf if c.pointwise_clip is None else c.pointwise_clip
        loss = sum(min(term, cap) for term in terms(c, p, frozen, q))
    if c.token_clip is not None:
        loss = min(loss, c.token_clip)
    if c.mask_high_entropy is not None and -sum(f * math.log(f) for f in frozen) > c.mask_high_entropy:
        loss = 0.0
    if c.is_clip is not None and not math.isnan(served):
        loss *= min(math.exp(math.log(frozen[y]) - served), c.is_clip)
    return loss + (c.kl_base_coef * kl(p, aux["base"]) if c.kl_base_coef else 0.0)
