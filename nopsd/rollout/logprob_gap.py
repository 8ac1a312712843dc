"""How far served and trained log-probs of the same weights may be apart, by number format.

Two programs that compute one model in a format of machine epsilon ε round every product's result, in other orders: each
layer adds its own roundings to the residual stream, independent of the others'. After L layers the relative error of
the final hidden state, and so that of logits, grows as ε √L. A token's log-prob log p moves by 1−p times what its logit
moves against the others'. So of sound weights the mean gap |Δ log p| is about ε √L · mean(1−p), and its 99.9 % quantile
about ε √L, times the spread of the logits; and log-softmax, in float32 in both programs, adds the last digit of a
logit. MEAN, HIGH and SOFTMAX are a few times what was measured (docs/training.md, Number formats). Both are judged: a
wrong layer, head or version moves the mean, a few sequences gone wrong the quantile. The largest gap is not: among a
million tokens it says how many they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = {"float32": 2.0**-23, "bfloat16": 2.0**-7}
MEAN = 6.0
HIGH = 30.0
SOFTMAX = 128.0 * 2.0**-23  # nats: last digits of float32 logits of some 64; in the quantile eight times that
QUANTILE = 0.999
CERTAIN = 1e-3  # least mean of 1−p that counts
# Of the histogram: eight bins a factor of two, from 2^-30 to 2^6 nats
_OCTAVES, _PER_OCTAVE, _LOWEST = 36, 8, -30


class Gap(NamedTuple):
    """|Δ log p| over tokens (nats): its mean, its 99.9 % quantile, and the trainer's mean 1−p of the tokens."""

    mean: float
    high: float
    uncertain: float


@dataclass(frozen=True)
class GapBound:
    """What sound weights stay within. `margin`: of the mean gap to mean(1−p); `stated`: the user's own mean instead."""

    margin: float
    high: float
    stated: float | None = None

    def mean(self, uncertain: float) -> float:
        """The largest mean gap of tokens with such a mean of 1−p."""
        return self.stated if self.stated is not None else self.margin * max(uncertain, CERTAIN) + SOFTMAX

    def passed_by(self, gap: Gap) -> str:
        """What is above the bound, in words; "" if nothing is. A value that isn't a number is."""
        found = []
        if not gap.mean <= self.mean(gap.uncertain):
            found.append(f"{gap.mean:.3g} on average (rounding: at most {self.mean(gap.uncertain):.3g})")
        if not gap.high <= self.high:
            found.append(f"{gap.high:.3g} at the 99.9 % quantile (rounding: at most {self.high:.3g})")
        return " and ".join(found)


def bound_of(dtypes: Sequence[str], layers: int, stated: float | None = None) -> GapBound:
    """By the coarsest of the number formats and the model's layers. `stated`: a mean gap (train.sync_tolerance)."""
    rounding = max(EPSILON[d] for d in dtypes) * math.sqrt(layers)
    high = HIGH * rounding + 8 * SOFTMAX
    return GapBound(MEAN * rounding, high if stated is None else max(high, HIGH / MEAN * stated), stated)


class GapHistogram:
    """Counts of |Δ log p| by size: quantiles of any number of tokens, added up over micro-batches and ranks."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.counts = torch.zeros(_OCTAVES * _PER_OCTAVE, dtype=torch.int64, device=device)

    def add(self, gap_N: Tensor) -> None:
        """Gaps (nats); one that isn't a number counts as the largest."""
        size_N = torch.nan_to_num(gap_N.double().abs(), nan=math.inf, posinf=math.inf).clamp(2.0**_LOWEST, 2.0**30)
        bin_N = ((size_N.log2() - _LOWEST) * _PER_OCTAVE).floor().long().clamp(0, len(self.counts) - 1)
        self.counts += torch.bincount(bin_N, minlength=len(self.counts))

    def high(self) -> float:
        """The upper end of the bin that holds the quantile; 0 of no tokens, infinite in the last bin."""
        total = int(self.counts.sum())
        if not total:
            return 0.0
        place = int(torch.searchsorted(self.counts.cumsum(0), math.ceil(QUANTILE * total)))
        return math.inf if place == len(self.counts) - 1 else 2.0 ** (_LOWEST + (place + 1) / _PER_OCTAVE)


def gap_of(served_N: Tensor, trained_N: Tensor) -> Gap:
    """Of two sides' log-probs of the same tokens."""
    difference_N = (served_N - trained_N).double().abs()
    histogram = GapHistogram(difference_N.device)
    histogram.add(difference_N)
    return Gap(float(difference_N.mean()), histogram.high(), float((1 - trained_N.double().exp()).mean()))
