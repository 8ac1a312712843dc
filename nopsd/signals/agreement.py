"""Which answers a question's rollouts give, and how far they agree. Pure, label-free.

In: zero-shot rollouts and their questions. Out: arrays by ascending uid. An answer that can't be read counts for
no one, but its rollout stays in n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nopsd.data.equivalence import Answers as Given
from nopsd.data.equivalence import unified
from nopsd.data.majority import majority
from nopsd.data.reading import AnswerReader
from nopsd.data.records import Question
from nopsd.errors import DataError
from nopsd.rollout.types import Rollout

Answers = dict[str, Given]
READER = AnswerReader()


def answers_of(
    rollouts: Sequence[Rollout], questions: Mapping[str, Question], reader: AnswerReader = READER
) -> Answers:
    """Each question's answers by ascending uid and sample, equal where `reader` takes them for the same.

    DataError if a rollout's question is not in the pool.
    """
    by_uid: dict[str, list[Rollout]] = {}
    for rollout in sorted(rollouts, key=lambda r: (r.uid, r.sample)):
        if rollout.uid not in questions:
            raise DataError(f"{rollout.uid} has rollouts and is not in the pool: run the rollout stage again")
        by_uid.setdefault(rollout.uid, []).append(rollout)
    return {uid: reader.answers(given, questions[uid]) for uid, given in by_uid.items()}


def together(
    one: Answers, other: Answers, questions: Mapping[str, Question], reader: AnswerReader
) -> tuple[Answers, Answers]:
    """Two sets of answers to the same questions, equal across both where `reader` takes them for the same."""
    joined = {uid: unified([*one[uid], *other.get(uid, ())], reader.same(questions[uid])) for uid in one}
    sizes = {uid: len(given) for uid, given in one.items()}
    return (
        {uid: found[: sizes[uid]] for uid, found in joined.items()},
        {uid: found[sizes[uid] :] for uid, found in joined.items()},
    )


def agreement(answers: Answers) -> dict[str, np.ndarray]:
    """`majority_conf` [N] = maxcount / n and `agrees` [N, n] 0/1 float32, in the order of `answers`."""
    most = max(map(len, answers.values()), default=0)
    confidence = np.zeros(len(answers), dtype=np.float32)
    agrees = np.zeros((len(answers), most), dtype=np.float32)
    for row, given in enumerate(answers.values()):
        answer, count = majority(given)
        confidence[row] = count / len(given)
        agrees[row, : len(given)] = [answer is not None and other == answer for other in given]
    return {"majority_conf": confidence, "agrees": agrees}
