"""Which of a question's rollouts teach and which learn, by the vote of their answers. Pure, label-free.

In: the answers of one question's rollouts as read (None: can't be), and their lengths in tokens, by sample.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from nopsd.config import UopsdConfig

EPSILON = 1e-6  # added to the standard deviation of the rewards


@dataclass(frozen=True)
class ShortTeachesLong:
    """Samples: the one that is shown, and those that are trained on. `share`: of the vote, of all samples."""

    reference: int
    trained: tuple[int, ...]
    share: float


def short_teaches_long(
    answers: Sequence[str | None], lengths: Sequence[int], config: UopsdConfig, seed: str
) -> ShortTeachesLong | None:
    """A response that agrees with the vote is shown; the longest that disagree are trained on.

    Args:
        answers: One a sample. One that can't be read neither teaches nor learns, and counts in the share's denominator.
        lengths: Tokens of the samples; of equals the lower sample comes first.
        config: `tau`, `k`, `reference`.
        seed: Of ties in the vote, and of a random reference.

    Returns:
        None: too small a vote, or nothing that agrees, or that disagrees.

    Source:
        U-OPSD, arXiv 2608.06296.
    """
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return None
    source, most = random.Random(seed), max(counts.values())
    label = source.choice(sorted(answer for answer, count in counts.items() if count == most))
    agreeing = [i for i, answer in enumerate(answers) if answer == label]
    others = [i for i, answer in enumerate(answers) if answer not in (None, label)]
    share = len(agreeing) / len(answers)
    if share < config.tau or not others:
        return None
    by_length = sorted(agreeing, key=lambda i: (lengths[i], i))
    longest = sorted(agreeing, key=lambda i: (-lengths[i], i))
    shown = {"shortest": by_length[0], "longest": longest[0]}.get(config.reference)
    shown = source.choice(agreeing) if shown is None else shown
    trained = sorted(others, key=lambda i: (-lengths[i], i))[: config.k]
    return ShortTeachesLong(shown, tuple(trained), share)


@dataclass(frozen=True)
class BothSides:
    """The voted answer, and the samples that are trained on: those that agree, and those that don't with the
    advantage that these have. `share`: of the vote, of all samples."""

    label: str
    agreeing: tuple[int, ...]
    disagreeing: tuple[int, ...]
    advantage: float
    share: float


def both_sides(answers: Sequence[str | None], lengths: Sequence[int], count: int) -> BothSides | None:
    """Half of `count` from those that agree, half from the others, the shortest first; a short side is filled up from
    the other. An answer that can't be read disagrees.

    With no answer given twice, the shortest response that can be read agrees, and the others' advantage is 0.

    Args:
        answers: One a sample.
        lengths: Tokens of the samples; of equals the lower sample comes first.
        count: Samples trained on.

    Returns:
        None: no answer could be read.

    Source:
        TTPO, arXiv 2608.27448.
    """
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return None
    label = min(counts, key=lambda answer: (-counts[answer], len(answer), answer))
    order = sorted(range(len(answers)), key=lambda i: (lengths[i], i))
    agree = [i for i in order if answers[i] == label]
    rewarded = len(agree)
    if counts[label] < 2:
        agree, rewarded = [next(i for i in order if answers[i] is not None)], 0
        label = str(answers[agree[0]])
    others = [i for i in order if i not in set(agree)]
    half = min(count // 2, len(agree))
    chosen = others[: count - half]
    taken = agree[: count - len(chosen)]
    return BothSides(label, tuple(taken), tuple(chosen), penalty(rewarded, len(answers)), rewarded / len(answers))


def penalty(agreeing: int, count: int) -> float:
    """The standardised reward of one that disagrees: (0 − μ)/(σ + 1e-6), μ = agreeing/count, σ the population's."""
    mean = agreeing / count
    return -mean / (math.sqrt(mean * (1 - mean)) + EPSILON)
