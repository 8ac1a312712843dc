"""Two models' answers to the same held-out questions, compared without a label.

In: sampled responses. Out: an `AnswerRow` a question, and of two models' rows a `Comparison`: figures with paired 95 %
intervals over questions, and the majority answers that changed. N questions, k samples a question. What follows from
it, in words: `nopsd.evaluation.conclusion`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nopsd.data.equivalence import unified
from nopsd.data.judges.base import Same
from nopsd.data.majority import majority
from nopsd.data.reading import AnswerReader
from nopsd.data.records import Question
from nopsd.errors import DataError
from nopsd.evaluation.bootstrap import Interval, interval, resample_counts
from nopsd.evaluation.evaluate import samples_of
from nopsd.evaluation.metrics import Array, majority_answer
from nopsd.rollout.repetition import repetition
from nopsd.rollout.types import Rollout

LEVELS = ("none could be read", "up to half", "over half", "over three quarters", "all alike")


class Answered(Protocol):
    """What is compared of a question's answers; a judged row has it too. Lists run over the samples."""

    @property
    def uid(self) -> str: ...
    @property
    def answers(self) -> list[str | None]: ...
    @property
    def majority(self) -> str | None: ...
    @property
    def share(self) -> float: ...
    @property
    def finish_reasons(self) -> list[str]: ...
    @property
    def lengths(self) -> list[int]: ...


@dataclass(frozen=True)
class AnswerRow:
    """One model's answers to one question, unjudged. Lists run over its samples."""

    uid: str
    answers: list[str | None]  # as extracted; None: none could be read
    majority: str | None
    share: float  # of the majority answer among all samples
    finish_reasons: list[str]
    lengths: list[int]  # response tokens
    repeated: float  # mean share of a response's 4-grams that it repeats
    nats: float | None = None  # -log p a token of the first response, under the model that gave it
    base_nats: float | None = None  # the same of the base model's first response, under this model


@dataclass(frozen=True)
class Figure:
    """A mean over questions before and after, and the paired change."""

    name: str
    before: Interval
    after: Interval
    change: Interval


@dataclass(frozen=True)
class Flip:
    """A question whose majority answer changed, with the answer's share of the votes on either side."""

    uid: str
    before: str | None
    after: str | None
    share_before: float
    share_after: float


@dataclass(frozen=True)
class Comparison:
    """Base and trained model on the same questions. Shares are fractions, `nats` are a token's."""

    questions: int
    samples: int
    figures: dict[str, Figure]  # by name, as FIGURES; those alone that could be measured
    same_majority: Interval  # share of the questions whose majority answer stayed
    drift: Interval | None  # nats a token by which the trained model finds the base's answers less likely
    commonest: tuple[float, float]  # share of the questions whose majority is the commonest one, before and after
    levels: tuple[list[int], list[int]]  # questions by vote share, as LEVELS, before and after
    flips: list[Flip]  # surest first


def answer_rows(
    questions: Sequence[Question],
    rollouts_by_uid: Mapping[str, Sequence[Rollout]],
    n: int,
    reader: AnswerReader,
    nats: Mapping[str, float] | None = None,
    base: Sequence[AnswerRow] = (),
    base_nats: Mapping[str, float] | None = None,
) -> list[AnswerRow]:
    """The answers that one model gave, as they are read.

    Args:
        questions: Held out.
        rollouts_by_uid: `n` samples of each.
        n: Samples a question.
        reader: Of answers.
        nats: uid -> -log p a token of its first response, under the model itself.
        base: The base model's rows: an answer that means the same as one of theirs is written as theirs is.
        base_nats: uid -> -log p a token of the base model's first response, under this model.

    Raises:
        ArtefactError: A question without exactly its n samples.
    """
    rows, known = [], {row.uid: row.answers for row in base}
    for question in questions:
        samples, before = samples_of(question, rollouts_by_uid, n), known.get(question.uid, [])
        read = as_before(before, [reader.read(r, question) for r in samples], reader.same(question))
        rows.append(
            AnswerRow(
                question.uid,
                read,
                *majority_answer(read),
                finish_reasons=[r.finish_reason for r in samples],
                lengths=[len(r.response_ids) for r in samples],
                repeated=repetition([r.response_ids for r in samples])[0],
                nats=(nats or {}).get(question.uid),
                base_nats=(base_nats or {}).get(question.uid),
            )
        )
    return rows


def as_before(before: Sequence[str | None], read: Sequence[str | None], same: Same) -> list[str | None]:
    """Answers equal where they mean the same, and written as in `before` where one of these means it too."""
    classes = unified([*before, *read], same)
    written = {found: answer for found, answer in zip(classes, before, strict=False) if answer is not None}
    return [None if found is None else written.get(found, found) for found in classes[len(before) :]]


def with_base_vote(votes: Sequence[str | None], answers: Sequence[str | None]) -> tuple[float, float]:
    """How often a question's answers are the base's majority, of base and trained model.

    The base is measured on answers that had no part in the vote: each half of its samples votes, the other is compared,
    and so is the trained model's whole, with the same votes. Half a vote is noisier than a whole one, on both sides.

    Args:
        votes: The base's samples, at least two.
        answers: The trained model's.

    Returns:
        Shares of the base's and of the trained model's answers.
    """
    half = len(votes) // 2
    found = []
    for voting, rest in ((votes[:half], votes[half:]), (votes[half:], votes[:half])):
        vote = majority(voting)[0]
        found.append([0.0 if vote is None else sum(a == vote for a in side) / len(side) for side in (rest, answers)])
    before, after = np.mean(found, axis=0)
    return float(before), float(after)


def compare(before: Sequence[Answered], after: Sequence[Answered], resamples: int, seed: int) -> Comparison:
    """The two models' rows, of the same questions in the same order.

    Args:
        before: The base model's.
        after: The trained model's.
        resamples: Of the questions; 0: no intervals.
        seed: Of the resamples.

    Raises:
        DataError: There are none, or they are of different questions.
    """
    if not before or [row.uid for row in before] != [row.uid for row in after]:
        raise DataError("the two models' answers are of different questions, or of none: evaluate both again")
    counts_BN = resample_counts(len(before), resamples, seed)
    columns = {name: (_column(before, of), _column(after, of)) for name, of in FIGURES.items()}
    if len(before[0].answers) > 1:
        agreed = np.array([with_base_vote(b.answers, a.answers) for b, a in zip(before, after, strict=True)])
        columns["base_vote"] = (agreed[:, 0], agreed[:, 1])
    figures = {name: _figure(name, *sides, counts_BN) for name, sides in columns.items() if _known(*sides)}
    stayed = np.array([b.majority == a.majority for b, a in zip(before, after, strict=True)], dtype=float)
    drift_N = _column(after, lambda row: getattr(row, "base_nats", None)) - columns["nats"][0]
    return Comparison(
        questions=len(before),
        samples=len(before[0].answers),
        figures=figures,
        same_majority=_mean(stayed, counts_BN),
        drift=_mean(drift_N, counts_BN) if _known(drift_N) else None,
        commonest=(commonest_share(before), commonest_share(after)),
        levels=(share_levels(before), share_levels(after)),
        flips=_flips(before, after),
    )


def _share_of(row: Answered, wanted: Callable[[int], bool]) -> float:
    return sum(map(wanted, range(len(row.answers)))) / len(row.answers)


# What is measured of each question's answers: name -> number, None where it isn't known. `base_vote` is paired besides.
FIGURES: dict[str, Callable[[Answered], float | None]] = {
    "vote_share": lambda row: row.share,
    "distinct": lambda row: float(len({a for a in row.answers if a is not None})),
    "unread": lambda row: _share_of(row, lambda i: row.answers[i] is None),
    "unfinished": lambda row: _share_of(row, lambda i: row.finish_reasons[i] == "length"),
    "length": lambda row: float(np.mean(row.lengths)),
    "repeated": lambda row: getattr(row, "repeated", None),
    "nats": lambda row: getattr(row, "nats", None),
}


def _column(rows: Sequence[Answered], of: Callable[[Answered], float | None]) -> Array:
    return np.array([np.nan if (value := of(row)) is None else value for row in rows])


def _known(*columns: Array) -> bool:
    return all(bool(np.isfinite(column).all()) for column in columns)


def _mean(values_N: Array, counts_BN: Array) -> Interval:
    return interval(float(values_N.mean()), counts_BN @ values_N / len(values_N))


def _figure(name: str, before_N: Array, after_N: Array, counts_BN: Array) -> Figure:
    return Figure(name, *(_mean(values, counts_BN) for values in (before_N, after_N, after_N - before_N)))


def commonest_share(rows: Sequence[Answered]) -> float:
    """Share of the questions whose majority answer is the commonest one of all."""
    return majority([row.majority for row in rows])[1] / len(rows)


def share_levels(rows: Sequence[Answered]) -> list[int]:
    """Questions by vote share, as LEVELS."""
    edges = (0.0, 0.5, 0.75, 1.0 - 1e-9)  # of the share, from above
    found = Counter(sum(row.share > edge for edge in edges) for row in rows)
    return [found[level] for level in range(len(LEVELS))]


def _flips(before: Sequence[Answered], after: Sequence[Answered]) -> list[Flip]:
    found = [
        Flip(b.uid, b.majority, a.majority, b.share, a.share)
        for b, a in zip(before, after, strict=True)
        if b.majority != a.majority
    ]
    return sorted(found, key=lambda flip: -(flip.share_before + flip.share_after))
