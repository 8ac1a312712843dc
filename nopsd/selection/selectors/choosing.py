"""From scores to the selected questions (the paper's Algorithm 1).

In: a `Pool` of all questions and a config. Out: `Selection`, the same on every rank and for every order of the input.
    paper: thr = k-th smallest s, k = floor(b N);  S = {x : s(x) <= thr}
Each domain is ranked by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from nopsd.config import SelectConfig
from nopsd.errors import ConfigError, DataError, UserError
from nopsd.selection.pool import Pool
from nopsd.selection.selectors.base import Clustered, Selector, without_length
from nopsd.selection.selectors.registry import find_selector
from nopsd.selection.selectors.spaces import space_of, unlike


@dataclass(frozen=True)
class Selection:
    """`uids`: best first, ties by uid, domain after domain. `threshold`: the worst score kept (of the last domain, if
    there are several: `stats` has each); None where no threshold decides. `scores`: of every candidate, by uid; empty
    where nothing was scored, and when read back (scores.jsonl has them)."""

    uids: list[str]
    threshold: float | None
    stats: dict[str, Any]
    scores: dict[str, float] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class _Chosen:
    rows: np.ndarray  # best first
    threshold: float | None
    scores: np.ndarray | None


def select(pool: Pool, config: SelectConfig) -> Selection:
    """The selected questions, by domain.

    Questions without a scored position are never candidates: their count of 0 says nothing.

    Args:
        pool: All questions.
        config: Which selector, which share, and what happens to ties.

    Raises:
        ConfigError: The fraction leaves no question, or there are fewer than select.count.
        DataError: A score is not a number; the question is named.
    """
    chooser = find_selector(config)
    candidate = pool.lengths > 0
    if config.exclude_truncated:
        candidate &= ~pool.truncated
    names, domain_of = np.unique(np.array(pool.domains, dtype=np.str_), return_inverse=True)
    kept: list[str] = []
    thresholds: dict[str, float] = {}
    scores: dict[str, float] = {}
    for number, domain in enumerate(names.tolist()):
        rows = np.flatnonzero(domain_of == number)
        k = _budget_of(rows, candidate, chooser, config)
        part = pool.rows(rows[candidate[rows]], k)
        chosen = _choose(part, chooser, config)
        kept += [part.uids[i] for i in chosen.rows]
        if chosen.threshold is not None:
            thresholds[domain] = chosen.threshold
        if chosen.scores is not None:
            scores.update(zip(part.uids, chosen.scores.tolist()))
    stats = {
        "pool": len(pool.uids),
        "selected": len(kept),
        "truncated": int(pool.truncated.sum()),
        "without_scored_positions": int((pool.lengths == 0).sum()),
        "candidates": int(candidate.sum()),
        "thresholds": thresholds,
    }
    return Selection(kept, list(thresholds.values())[-1] if thresholds else None, stats, scores)


def budget(fraction: float, size: int) -> int:
    """floor(fraction * size) of the fraction as written: 0.29 of 100 is 29, whatever binary floats make of it."""
    return int(Fraction(str(fraction)) * size)


def asked_for(config: SelectConfig, size: int) -> int:
    """How many of `size` questions of a domain the configuration wants."""
    return config.count if config.count is not None else budget(config.fraction, size)


def _budget_of(rows: np.ndarray, candidate: np.ndarray, chooser: Selector, config: SelectConfig) -> int:
    """How many of a domain's questions (all of them, `rows`) to keep."""
    candidates = int(candidate[rows].sum())
    if chooser.keep == "all":
        return candidates
    if config.count is not None and config.count > candidates:
        raise ConfigError(
            f"select.count={config.count} of {len(rows)} questions ({candidates} candidates): lower it, or give more "
            "questions"
        )
    k = min(asked_for(config, len(rows)), candidates)
    if k == 0:
        raise ConfigError(
            f"select.fraction={config.fraction} of {len(rows)} questions ({candidates} candidates) selects none: "
            "raise it, or give more questions"
        )
    return k


def _choose(pool: Pool, chooser: Selector, config: SelectConfig) -> _Chosen:
    if chooser.keep == "all":
        return _Chosen(_distinct(np.arange(len(pool.uids)), pool, config), None, None)
    scored = chooser.score(pool, config)
    scores = _checked(scored.scores if isinstance(scored, Clustered) else scored, pool, config)
    if chooser.length_control and config.length_control == "residual":
        scores = without_length(scores, pool.lengths)
    rank = -scores if (config.keep or chooser.keep) == "high" else scores  # least first
    order = np.argsort(rank, kind="stable")  # the pool is by uid, so ties are too
    if isinstance(scored, Clustered):
        _, first = np.unique(np.asarray(scored.clusters)[order], return_index=True)
        return _Chosen(_distinct(order[np.sort(first)], pool, config), None, scores)
    if config.redundancy is not None:
        rows = _distinct(order, pool, config)
        return _Chosen(rows, float(scores[rows[-1]]), scores)
    worst = rank[order[pool.budget - 1]]
    rows = order[: pool.budget] if config.ties == "exact" else order[: np.searchsorted(rank[order], worst, "right")]
    return _Chosen(rows, float(scores[order[pool.budget - 1]]), scores)


def _distinct(order: np.ndarray, pool: Pool, config: SelectConfig) -> np.ndarray:
    """The first `budget` rows in this order, without those that select.redundancy finds too much like one before."""
    if config.redundancy is None or not len(order):
        return order
    return unlike(order, space_of(pool, config), config.redundancy, pool.budget)


def _checked(returned: Any, pool: Pool, config: SelectConfig) -> np.ndarray:
    """Scores as float64 [N]; what is no such thing is refused."""
    try:
        scores = np.asarray(returned, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"select.selector={config.selector} must return numbers, one a question: {error}") from error
    if scores.shape != (len(pool.uids),):
        raise UserError(
            f"select.selector={config.selector} returned scores of shape {list(scores.shape)} for {len(pool.uids)} "
            "questions: return one number a question"
        )
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise DataError(
            f"select.selector={config.selector} has no score for {len(bad)} of {len(scores)} questions: that of "
            f"question {pool.uids[bad[0]]} is {scores[bad[0]]}. Take another selector, or remove these questions; "
            "what compares a question's answers (nad_agreement, majority_conf, learnability, belief_shift) needs "
            "zero_shot.n of 2 or more"
        )
    return scores
