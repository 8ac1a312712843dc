"""Which questions are trained on (SPEC §4). A registry of selectors with one interface.

In: per-question neuron counts, lengths and flags, in any order. Out: `Selection`, the same on every rank and for
every order of the input.
    paper: thr = k-th smallest s, k = floor(b N);  S = {x : s(x) <= thr}
A selector gives each question a score, of which the lowest are kept; each domain is ranked by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from nopsd.config import SelectConfig
from nopsd.errors import ConfigError


@dataclass(frozen=True)
class Pool:
    """Per-question columns, by ascending uid."""

    uids: list[str]
    counts: np.ndarray  # [N] neuron counts s
    lengths: np.ndarray  # [N] scored response positions T
    truncated: np.ndarray  # [N] bool
    domains: list[str]


@dataclass(frozen=True)
class Selection:
    """`uids` by ascending (score, uid), domain after domain; `threshold` the greatest score kept (of the last
    domain, if there are several: `stats` has each); None for `all`."""

    uids: list[str]
    threshold: float | None
    stats: dict[str, Any]


# Scores of the pool's questions, lowest kept; None: keep everything.
Selector = Callable[[Pool, SelectConfig], np.ndarray | None]


def _neuron_count(pool: Pool, config: SelectConfig) -> np.ndarray:
    return _without_length(pool) if config.length_control == "residual" else pool.counts.astype(np.float64)


def _neuron_count_top(pool: Pool, config: SelectConfig) -> np.ndarray:
    return -_neuron_count(pool, config)


def _random(pool: Pool, config: SelectConfig) -> np.ndarray:
    """Uniform in [0, 1), from seed and uid alone: a question's draw does not depend on the others."""
    return np.array([uniform(config.seed, "select", uid) for uid in pool.uids])


def _all(pool: Pool, config: SelectConfig) -> None:
    return None


SELECTORS: dict[str, Selector] = {
    "neuron_count": _neuron_count, "neuron_count_top": _neuron_count_top, "random": _random, "all": _all,
}  # fmt: skip


def select(
    uids: Sequence[str],
    counts: np.ndarray,
    lengths: np.ndarray,
    truncated: np.ndarray,
    config: SelectConfig,
    domains: Sequence[str] | None = None,
) -> Selection:
    """The selected questions. Questions without a scored position are never candidates: their count of 0 says
    nothing. ConfigError if the fraction leaves none."""
    pool = _pool(uids, counts, lengths, truncated, domains)
    candidate = pool.lengths > 0
    if config.exclude_truncated:
        candidate &= ~pool.truncated
    kept: list[str] = []
    thresholds: dict[str, float] = {}
    for domain in sorted(set(pool.domains)):
        rows = np.array([i for i, d in enumerate(pool.domains) if d == domain])
        names, threshold = _select_domain(_rows(pool, rows[candidate[rows]]), len(rows), config)
        kept += names
        if threshold is not None:
            thresholds[domain] = threshold
    stats = {
        "pool": len(pool.uids), "selected": len(kept), "truncated": int(pool.truncated.sum()),
        "without_scored_positions": int((pool.lengths == 0).sum()), "candidates": int(candidate.sum()),
        "thresholds": thresholds,
    }  # fmt: skip
    return Selection(kept, list(thresholds.values())[-1] if thresholds else None, stats)


def budget(fraction: float, size: int) -> int:
    """floor(fraction * size) of the fraction as written: 0.29 of 100 is 29, whatever binary floats make of it."""
    return int(Fraction(str(fraction)) * size)


def uniform(seed: int, *names: str) -> float:
    """A number in [0, 1) from a seed and names; the same on every machine."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _select_domain(pool: Pool, size: int, config: SelectConfig) -> tuple[list[str], float | None]:
    """`size`: the domain's questions, of which `pool` has the candidates."""
    scores = SELECTORS[config.selector](pool, config)
    if scores is None:
        return pool.uids, None
    k = min(budget(config.fraction, size), len(pool.uids))
    if k == 0:
        raise ConfigError(
            f"select.fraction={config.fraction} of {size} questions ({len(pool.uids)} candidates) selects none: "
            "raise it, or give more questions"
        )
    order = sorted(range(len(pool.uids)), key=lambda i: (scores[i], pool.uids[i]))
    threshold = scores[order[k - 1]]
    chosen = order[:k] if config.ties == "exact" else [i for i in order if scores[i] <= threshold]
    sign = -1.0 if config.selector == "neuron_count_top" else 1.0
    return [pool.uids[i] for i in chosen], float(sign * threshold)


def _without_length(pool: Pool) -> np.ndarray:
    """Residual of s in its least-squares line on log T: what length alone does not explain."""
    log_length = np.log(pool.lengths.astype(np.float64))
    counts = pool.counts.astype(np.float64)
    if len(counts) == 0 or np.ptp(log_length) == 0:
        return counts - counts.mean() if len(counts) else counts
    centred = log_length - log_length.mean()
    slope = (centred * (counts - counts.mean())).sum() / (centred**2).sum()
    return counts - counts.mean() - slope * centred


def _pool(
    uids: Sequence[str], counts: np.ndarray, lengths: np.ndarray, truncated: np.ndarray, domains: Sequence[str] | None
) -> Pool:
    order = np.array(sorted(range(len(uids)), key=uids.__getitem__), dtype=np.int64)
    named = list(domains) if domains is not None else [""] * len(uids)
    unordered = Pool(list(uids), np.asarray(counts), np.asarray(lengths), np.asarray(truncated, dtype=bool), named)
    return _rows(unordered, order)


def _rows(pool: Pool, rows: np.ndarray) -> Pool:
    rows = rows.astype(np.int64)
    return Pool(
        [pool.uids[i] for i in rows], pool.counts[rows], pool.lengths[rows], pool.truncated[rows],
        [pool.domains[i] for i in rows],
    )  # fmt: skip
