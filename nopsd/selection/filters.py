"""Whose responses may be demonstrations (context.filter). Pure, and label-free: a majority of
the model's own answers.

In: all questions' columns by number. Out: which questions may be shown, and which of their responses is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from nopsd.errors import DataError
from nopsd.selection.pool import Pool


@dataclass(frozen=True)
class Eligible:
    """allowed [N] bool: may be a demonstration; samples [N]: the response that is shown."""

    allowed: np.ndarray
    samples: np.ndarray


def eligible(name: str, pool: Pool) -> Eligible:
    """What context.filter=`name` leaves of the pool."""
    return _FILTERS[name](pool)


def _none(pool: Pool) -> Eligible:
    return Eligible(np.ones(len(pool.uids), dtype=bool), np.zeros(len(pool.uids), dtype=np.int64))


def _majority(pool: Pool) -> Eligible:
    """Questions with a response that agrees with maj@n: the first such response."""
    if "agrees" not in pool.columns:
        raise DataError("context.filter=majority: there is no column agrees: run the signals stage again")
    agrees = np.greater(pool.columns["agrees"], 0)  # NaN: no such response
    return Eligible(agrees.any(axis=1), np.argmax(agrees, axis=1))


def _s_below_median(pool: Pool) -> Eligible:
    """Questions with a neuron count at most the median of their domain's scored questions."""
    allowed = np.zeros(len(pool.uids), dtype=bool)
    domains, scored = np.array(pool.domains, dtype=np.str_), pool.lengths > 0
    for domain in np.unique(domains):
        rows = np.flatnonzero((domains == domain) & scored)
        if len(rows):
            counts = pool.counts[rows].astype(np.float64)
            allowed[rows] = counts <= np.median(counts)
    return Eligible(allowed, np.zeros(len(pool.uids), dtype=np.int64))


_FILTERS: Mapping[str, Callable[[Pool], Eligible]] = {
    "none": _none,
    "majority": _majority,
    "s_below_median": _s_below_median,
}
