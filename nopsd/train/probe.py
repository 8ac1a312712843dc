"""Numbers of a policy's health that need no label (SPEC §9.5): on a fixed few questions, several samples each.

A falling distinct-answer rate with a majority share near 1 tells of collapse to one answer (F3), a
rising unparsed share of broken formatting (F8).
"""

from __future__ import annotations

from collections.abc import Sequence

from nopsd.data.answers import extract_answer
from nopsd.data.majority import majority
from nopsd.data.records import Question
from nopsd.rollout.types import Rollout


def probe_metrics(
    questions: Sequence[Question], samples: Sequence[Sequence[Rollout]], extract: str, think_open: bool = False
) -> dict[str, float]:
    """Means over questions of: distinct parsed answers per sample, the commonest answer's share, the unparsed share."""
    distinct = share = unparsed = length = 0.0
    for question, rollouts in zip(questions, samples, strict=True):
        answers = [extract_answer(r.text, question, extract, think_open) for r in rollouts]
        parsed = [a for a in answers if a is not None]
        n = len(rollouts)
        distinct += len(set(parsed)) / n
        share += majority(answers)[1] / n
        unparsed += (n - len(parsed)) / n
        length += sum(len(r.response_ids) for r in rollouts) / n
    count = len(questions)
    return {
        "probe/distinct_answer_rate": distinct / count,
        "probe/majority_share": share / count,
        "probe/unparsed_share": unparsed / count,
        "probe/response_length": length / count,
    }
