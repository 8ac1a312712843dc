"""Rewards that need no label: agreement with the vote (TTRL, arXiv 2504.16084) or the policy's own certainty
(Intuitor, arXiv 2505.19590).

In: a step's rollouts, `n` in a row to a question; a `Question` has no answer field. Out: a reward each, and what to
log of them. And the advantages of the responses to one question among themselves (GRPO, arXiv 2402.03300):

    A_i = (r_i − mean r) / (std r + ε)

std is the sample's, with n − 1, as TRL 1.16 (`nanstd` in grpo_trainer.py, ε 1e-4) and verl
(`compute_grpo_outcome_advantage` in core_algos.py: torch.std, ε 1e-6) have it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nopsd.data.majority import majority
from nopsd.data.reading import AnswerReader
from nopsd.data.records import Question
from nopsd.engine.distributed import Ranks
from nopsd.errors import DataError
from nopsd.rollout.types import Rollout
from nopsd.signals.statistics import NAMES
from nopsd.train.batches import MicroBatch

READER = AnswerReader()
CERTAINTY = NAMES.index("self_certainty")


@dataclass(frozen=True)
class Rewards:
    """One a response, in order; and numbers for the log."""

    values: list[float]
    metrics: dict[str, float]


def majority_rewards(
    uids: Sequence[str],
    rollouts: Sequence[Rollout],
    n: int,
    questions: Mapping[str, Question],
    reader: AnswerReader = READER,
) -> Rewards:
    """1 where a response's answer is its group's most frequent one (of equals the first given), else 0.

    An answer that can't be read has no vote and no reward.

    Args:
        uids: The question of each group.
        rollouts: `n` in a row to each.
        n: Responses of a group.
        questions: By uid.
        reader: Of answers.

    Raises:
        DataError: A question is unknown.

    Source:
        TTRL, arXiv 2504.16084.
    """
    values: list[float] = []
    shares, unparsed = 0.0, 0
    for group, uid in enumerate(uids):
        if uid not in questions:
            raise DataError(f"question {uid} is trained on and not in the pool: run the select stage again")
        answers = reader.answers(rollouts[group * n : (group + 1) * n], questions[uid])
        vote, count = majority(answers)
        values += [float(answer is not None and answer == vote) for answer in answers]
        shares, unparsed = shares + count / n, unparsed + answers.count(None)
    return Rewards(values, {"majority_share": shares / len(uids), "unparsed_share": unparsed / len(values)})


def certainty_rewards(responses: int, batches: Sequence[MicroBatch], found: Sequence[Tensor], ranks: Ranks) -> Rewards:
    """Means over each response's tokens of KL(U ‖ p_t) in nats, the constant −log V included. Collective.

    Args:
        responses: Of the step.
        batches: This rank's micro-batches.
        found: [3, N] of each of them (`nopsd.signals.statistics`).
        ranks: All that train.

    Returns:
        Of every response, equal on all ranks; 0 for an empty one.

    Source:
        Intuitor, arXiv 2505.19590.
    """
    sums_2S = torch.zeros(2, responses, dtype=torch.float64, device=ranks.device)
    for batch, values in zip(batches, found, strict=True):
        counted = batch.weights_N > 0
        values_N = values[CERTAINTY][counted].double()
        sums_2S[0].index_add_(0, batch.example_N[counted], values_N)
        sums_2S[1].index_add_(0, batch.example_N[counted], torch.ones_like(values_N))
    total_S, tokens_S = ranks.all_sum(sums_2S)
    return Rewards((total_S / tokens_S.clamp(min=1)).tolist(), {})


def group_advantages(rewards: Sequence[float], n: int, epsilon: float) -> list[float]:
    """Rewards less their group's mean, over its standard deviation (with n − 1).

    Args:
        rewards: `n` in a row to a question.
        n: Responses of a group.
        epsilon: Added to the standard deviation; a group of equal rewards has advantages of exactly 0.

    Raises:
        ValueError: `n` is below 2 or doesn't divide the rewards.
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
