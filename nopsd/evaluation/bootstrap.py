"""Percentile bootstrap over questions: intervals of Avg@k, maj@k, ECE and pass@k, and of
paired before/after differences.

Resampling N questions with replacement is drawing counts w (summing to N); each headline metric is a
function of (w @ X) / N for a fixed matrix X of per-question terms, so all resamples are one product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nopsd.evaluation.metrics import Array, Booleans, calibration_gaps, pass_per_question

LEVEL = 0.95


@dataclass(frozen=True)
class Outcomes:
    """What the metrics need of a domain's evaluation. N questions, k samples; same order of questions throughout."""

    correct_Nk: Booleans
    vote_N: Booleans  # majority answer right
    share_N: Array  # majority answer's share


@dataclass(frozen=True)
class Interval:
    """A value with its percentile interval; the ends are None without resampling."""

    value: float
    low: float | None = None
    high: float | None = None


def resample_counts(questions: int, resamples: int, seed: int) -> Array:
    """How often each question is drawn in each resample.

    Args:
        questions: N.
        resamples: B.
        seed: Rows are reproducible from it.

    Returns:
        [B, N].
    """
    rng = np.random.default_rng(seed)
    counts = np.empty((resamples, questions))
    for row in counts:
        row[:] = np.bincount(rng.integers(questions, size=questions), minlength=questions)
    return counts


def headline(outcomes: Outcomes, bins: int, counts_BN: Array | None = None) -> dict[str, Array]:
    """Avg, maj, ECE and pass@1, 2, 4, ... up to k.

    Args:
        outcomes: One evaluation's judged answers.
        bins: Of the ECE.
        counts_BN: Resamples (`resample_counts`); None: the sample itself, B = 1.

    Returns:
        Each of shape B.
    """
    n = len(outcomes.vote_N)
    weights = np.ones((1, n)) if counts_BN is None else counts_BN
    k = outcomes.correct_Nk.shape[1]
    terms = {"avg": outcomes.correct_Nk.mean(axis=1), "maj": outcomes.vote_N.astype(float)}
    terms |= {f"pass@{j}": pass_per_question(outcomes.correct_Nk, j) for j in pass_ks(k)}
    columns = np.stack(list(terms.values()), axis=1)
    means = weights @ np.concatenate([columns, calibration_gaps(outcomes.share_N, outcomes.vote_N, bins)], axis=1) / n
    values = {name: means[:, i] for i, name in enumerate(terms)}
    values["ece"] = np.abs(means[:, len(terms) :]).sum(axis=1)
    return values


def pass_ks(k: int) -> list[int]:
    """1, 2, 4, ... and k itself."""
    return sorted({2**i for i in range(k.bit_length()) if 2**i <= k} | {k})


def interval(value: float, resampled_B: Array, level: float = LEVEL) -> Interval:
    """The value with the resampled values' central quantiles."""
    if len(resampled_B) == 0:
        return Interval(float(value))
    low, high = np.quantile(resampled_B, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def intervals(outcomes: Outcomes, bins: int, resamples: int, seed: int) -> dict[str, Interval]:
    """Every headline metric with its interval.

    Args:
        outcomes: One evaluation's judged answers.
        bins: Of the ECE.
        resamples: Of the questions; 0: no intervals.
        seed: Of the resamples.
    """
    return mean_intervals([outcomes], bins, resamples, seed)


def mean_intervals(domains: Sequence[Outcomes], bins: int, resamples: int, seed: int) -> dict[str, Interval]:
    """The headline metrics' means over domains, questions resampled within each domain.

    Args:
        domains: One evaluation a domain.
        bins: Of the ECE.
        resamples: Of the questions.
        seed: Of the resamples.
    """
    return _summarise([headline(o, bins) for o in domains], _resampled(domains, bins, resamples, seed))


def paired_differences(
    before: Sequence[Outcomes], after: Sequence[Outcomes], bins: int, resamples: int, seed: int
) -> dict[str, Interval]:
    """After less before, averaged over domains; the same questions are drawn on both sides.

    Args:
        before: One evaluation a domain.
        after: The same domains in the same order, with their questions in the same order.
        bins: Of the ECE.
        resamples: Of the questions.
        seed: Of the resamples.
    """
    for b, a in zip(before, after, strict=True):
        if len(b.vote_N) != len(a.vote_N):
            raise ValueError(f"paired evaluations of {len(b.vote_N)} and {len(a.vote_N)} questions")
    points = [_minus(headline(a, bins), headline(b, bins)) for b, a in zip(before, after, strict=True)]
    drawn_before, drawn_after = (_resampled(side, bins, resamples, seed) for side in (before, after))
    return _summarise(points, [_minus(a, b) for b, a in zip(drawn_before, drawn_after, strict=True)])


def _resampled(domains: Sequence[Outcomes], bins: int, resamples: int, seed: int) -> list[dict[str, Array]]:
    return [headline(o, bins, resample_counts(len(o.vote_N), resamples, seed + i)) for i, o in enumerate(domains)]


def _minus(a: Mapping[str, Array], b: Mapping[str, Array]) -> dict[str, Array]:
    return {name: a[name] - b[name] for name in a if name in b}


def _summarise(points: Sequence[Mapping[str, Array]], drawn: Sequence[Mapping[str, Array]]) -> dict[str, Interval]:
    shared = [name for name in points[0] if all(name in p for p in points)]
    return {
        name: interval(float(np.mean([p[name][0] for p in points])), np.mean([d[name] for d in drawn], axis=0))
        for name in shared
    }
