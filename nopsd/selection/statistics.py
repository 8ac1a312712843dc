"""What a selection looks like, for selected.json: quantiles of s and of scores, and what they go with.

Pure. In: a `Pool` of all questions. Out: plain values; None where there is nothing to correlate.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nopsd.selection.pool import Pool

QUANTILES = ("0", "5", "25", "50", "75", "95", "100")  # percent


def count_statistics(pool: Pool) -> dict[str, Any]:
    """Of the neuron counts of all questions with a scored position; None where none were counted."""
    scored = (pool.lengths > 0) & np.isfinite(pool.counts)
    s, length = pool.counts[scored].astype(np.float64), pool.lengths[scored].astype(np.float64)
    return {
        "count_quantiles": quantiles(s),
        "count_mean": float(s.mean()) if len(s) else None,
        "count_length_correlation": correlation(s, length),
    }


def score_statistics(pool: Pool, scores: dict[str, float]) -> dict[str, dict[str, Any]]:
    """By domain (scores of different domains are never compared): of the selector's scores of its candidates."""
    place = {uid: i for i, uid in enumerate(pool.uids)}
    rows = np.array([place[uid] for uid in scores], dtype=np.int64)
    values = np.array(list(scores.values()), dtype=np.float64)
    domains = np.array(pool.domains, dtype=np.str_)[rows]
    return {str(d): _of_domain(values[domains == d], pool, rows[domains == d]) for d in np.unique(domains)}


def _of_domain(values: np.ndarray, pool: Pool, rows: np.ndarray) -> dict[str, Any]:
    return {
        "quantiles": quantiles(values),
        "mean": float(values.mean()),
        "count_correlation": correlation(values, pool.counts[rows]),
        "length_correlation": correlation(values, pool.lengths[rows]),
    }


def quantiles(values: np.ndarray) -> dict[str, float]:
    """By percent; empty without values."""
    if not len(values):
        return {}
    return dict(zip(QUANTILES, np.quantile(values, [int(q) / 100 for q in QUANTILES]).tolist()))


def correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's r; None with fewer than two values, where a side is constant or a value isn't known."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(x) < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()) or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])
