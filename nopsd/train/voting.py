"""Which of the pool's own responses are trained on: those that agree with their question's vote (LMSI,
arXiv 2210.11610). Pure, label-free.

In: the zero-shot rollouts and their answers as read (nopsd.signals.agreement). Out: `VotedResponses`, the same on every
rank.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from nopsd.config import SftConfig
from nopsd.data.majority import majority
from nopsd.errors import DataError
from nopsd.rollout.types import Rollout


@dataclass
class VotedResponses:
    """`responses`: uid -> what is trained on, by sample. The other questions, by why nothing of them is: no answer
    could be read, too small a majority, every response that agrees was cut at the length limit."""

    responses: dict[str, list[Rollout]] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)

    def checked(self) -> VotedResponses:
        """Itself; DataError if there is nothing to train on."""
        if not self.responses:
            raise DataError(
                f"none of {len(self.unread) + len(self.unsure) + len(self.cut)} questions has a voted answer to train "
                f"on: in {len(self.unread)} no answer could be read (a model that answers in another form needs "
                f"another prompt, or more room: zero_shot.max_new), in {len(self.unsure)} the majority is below "
                f"sft.min_share, in {len(self.cut)} every response that agrees was cut (raise zero_shot.max_new)"
            )
        return self

    def counts(self) -> dict[str, int]:
        """For the record beside the model."""
        return {
            "voted_questions": len(self.responses),
            "voted_responses": sum(map(len, self.responses.values())),
            "dropped_unread": len(self.unread),
            "dropped_unsure": len(self.unsure),
            "dropped_cut": len(self.cut),
        }


def keep_voted(
    uids: Sequence[str],
    rollouts: Sequence[Rollout],
    answers: Mapping[str, Sequence[str | None]],
    config: SftConfig,
    seed: int,
) -> VotedResponses:
    """The responses whose answer is their question's most frequent one (of equals the first given).

    Args:
        uids: The questions.
        rollouts: All responses.
        answers: Each question's by sample; None: can't be read. The share is of all responses, read or not.
        config: The least share; of those that agree and are whole `per_question` are drawn uniformly (0: all).
        seed: Of the draw, which depends on it and the uid alone.

    Source:
        LMSI, arXiv 2210.11610.
    """
    by_uid: dict[str, list[Rollout]] = {uid: [] for uid in uids}
    for rollout in sorted(rollouts, key=lambda r: (r.uid, r.sample)):
        if rollout.uid in by_uid:
            by_uid[rollout.uid].append(rollout)
    kept, least = VotedResponses(), Fraction(str(config.min_share))  # exact: 0.7 of 10 is 7
    for uid, responses in by_uid.items():
        vote, count = majority(answers.get(uid, ()))
        agreeing = [r for r, answer in zip(responses, answers.get(uid, ())) if answer == vote and not r.truncated]
        if vote is None:
            kept.unread.append(uid)
        elif count < least * len(responses):
            kept.unsure.append(uid)
        elif not agreeing:
            kept.cut.append(uid)
        else:
            kept.responses[uid] = _draw(agreeing, config.per_question, f"{seed} {uid}")
    return kept


def _draw(responses: list[Rollout], count: int, seed: str) -> list[Rollout]:
    if count == 0 or count >= len(responses):
        return responses
    return sorted(random.Random(seed).sample(responses, count), key=lambda r: r.sample)
