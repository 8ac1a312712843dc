"""Advantages of the responses to one question among themselves (GRPO, arXiv 2402.03300; SPEC §8.2). Pure.

    A_i = (r_i − mean r) / (std r + ε)

std is the sample's, with n − 1, as TRL 1.16 (`nanstd` in grpo_trainer.py, ε 1e-4) and verl
(`compute_grpo_outcome_advantage` in core_algos.py: torch.std, ε 1e-6) have it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def group_advantages(rewards: Sequence[float], n: int, epsilon: float) -> list[float]:
    """Of each response, `n` in a row to a question. A group of equal rewards has advantages of exactly 0.

    ValueError if `n` is below 2 or doesn't divide the rewards.
    """
    return [a for group in groups(rewards, n) for a in _advantages(group, epsilon)]


def zero_share(rewards: Sequence[float], n: int) -> float:
    """Share of the groups whose rewards are all equal, so that nothing is learnt from them."""
    found = groups(rewards, n)
    return sum(max(group) == min(group) for group in found) / len(found)


def groups(values: Sequence[float], n: int) -> list[Sequence[float]]:
    """`n` in a row each."""
    if n < 2 or not values or len(values) % n:
        raise ValueError(f"{len(values)} responses are not groups of {n}, which must be 2 or more")
    return [values[start : start + n] for start in range(0, len(values), n)]


def _advantages(rewards: Sequence[float], epsilon: float) -> list[float]:
    if max(rewards) == min(rewards):
        return [0.0] * len(rewards)
    mean, deviation = statistics.fmean(rewards), statistics.stdev(rewards)
    return [(reward - mean) / (deviation + epsilon) for reward in rewards]
