"""How two columns of the pool go together, with bootstrap intervals and with a third held fixed.

In: columns over N questions, NaN where a question has no value. Out: `Correlation`. Pure.
Partial correlation is Pearson's of what is left of both sides after their least-squares line on the control.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from nopsd.evaluation.bootstrap import Interval, interval, resample_counts
from nopsd.evaluation.metrics import Array

RESAMPLES, LEAST_RESAMPLES = 1000, 100
DRAWS = 20_000_000  # questions x resamples; larger pools have narrow intervals anyway and get fewer resamples
BLOCK = 2_000_000  # of them at once in memory


@dataclass(frozen=True)
class Correlation:
    """Values with 95 % percentile intervals; NaN where a side is constant or fewer than three questions are known."""

    questions: int
    pearson: Interval
    spearman: Interval
    partial: Interval | None  # the control held fixed; None if there is no control or nothing varies beside it


def pearson(x_N: ArrayLike, y_N: ArrayLike) -> float:
    """Linear correlation; NaN if either side is constant or there are fewer than two points."""
    return _correlate(stats.pearsonr, x_N, y_N)


def spearman(x_N: ArrayLike, y_N: ArrayLike) -> float:
    """Rank correlation; NaN where `pearson` is."""
    return _correlate(stats.spearmanr, x_N, y_N)


def _correlate(test: Callable[[Array, Array], Any], x_N: ArrayLike, y_N: ArrayLike) -> float:
    x, y = np.asarray(x_N, dtype=float), np.asarray(y_N, dtype=float)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(test(x, y).statistic)


def correlation(x_N: Array, y_N: Array, control_N: Array | None = None, seed: int = 0) -> Correlation:
    """Pearson, Spearman (ranked anew in every resample) and partial correlation, with intervals.

    Args:
        x_N: One side; questions with a NaN are left out.
        y_N: The other.
        control_N: What the partial correlation takes out of both; None: there is none.
        seed: Of the resamples.
    """
    columns = [np.asarray(c, dtype=float) for c in (x_N, y_N, *([] if control_N is None else [control_N]))]
    values_NC = np.stack(columns, 1)
    values_NC = values_NC[np.isfinite(values_NC).all(1)]
    n = len(values_NC)
    if n < 3:
        nothing = Interval(float("nan"))
        return Correlation(n, nothing, nothing, None)
    points = _statistics(values_NC, np.ones((1, n)))[:, 0]
    draws = _resampled(values_NC, seed)
    pearson, spearman, partial = (_with_interval(p, d) for p, d in zip(points, draws))
    return Correlation(n, pearson, spearman, None if np.isnan(partial.value) else partial)


def resamples_for(questions: int) -> int:
    """How many resamples a pool of this size gets."""
    return max(LEAST_RESAMPLES, min(RESAMPLES, DRAWS // max(questions, 1)))


def _resampled(values_NC: Array, seed: int) -> Array:
    n = len(values_NC)
    left, rows = resamples_for(n), max(1, BLOCK // n)
    blocks: list[Array] = []
    while left:
        counts_BN = resample_counts(n, min(rows, left), seed + len(blocks))
        blocks.append(_statistics(values_NC, counts_BN))
        left -= len(counts_BN)
    return np.concatenate(blocks, 1)


def _with_interval(point: float, draws_B: Array) -> Interval:
    finite = draws_B[np.isfinite(draws_B)]
    usable = np.isfinite(point) and len(finite) > len(draws_B) / 2
    return interval(float(point), finite if usable else finite[:0])


def _statistics(values_NC: Array, counts_BN: Array) -> Array:
    """[3, B]: Pearson, Spearman and partial correlation of samples that hold question n counts_BN[b, n] times."""
    r_xy = _pearson(values_NC[:, 0], values_NC[:, 1], counts_BN)
    ranks = [_ranks(values_NC[:, c], counts_BN) for c in (0, 1)]
    rho = _pearson(ranks[0], ranks[1], counts_BN)
    if values_NC.shape[1] < 3:
        return np.stack([r_xy, rho, np.full_like(rho, np.nan)])
    r_xz, r_yz = (_pearson(values_NC[:, c], values_NC[:, 2], counts_BN) for c in (0, 1))
    rest = (1 - r_xz**2) * (1 - r_yz**2)
    partial = np.where(rest > 1e-12, (r_xy - r_xz * r_yz) / np.sqrt(np.maximum(rest, 1e-12)), np.nan)
    return np.stack([r_xy, rho, partial])


def _pearson(x: Array, y: Array, counts_BN: Array) -> Array:
    """[B]; `x` and `y` are [N], or [B, N] where they differ from sample to sample."""
    total = counts_BN.sum(1)
    x, y = (v - ((counts_BN * v).sum(1) / total)[:, None] for v in (x, y))
    xy, xx, yy = ((counts_BN * p).sum(1) for p in (x * y, x * x, y * y))
    spread = np.sqrt(xx * yy)
    return np.where(spread > 1e-12 * total, xy / np.maximum(spread, 1e-300), np.nan)


def _ranks(x_N: Array, counts_BN: Array) -> Array:
    """[B, N] average ranks of the values among each sample's, equal values sharing the mean of theirs."""
    _, group = np.unique(x_N, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    size_BG = np.add.reduceat(counts_BN[:, order], starts, axis=1)
    rank_BG = np.cumsum(size_BG, 1) - (size_BG - 1) / 2
    return rank_BG[:, group]
