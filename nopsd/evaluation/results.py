"""Judged questions and their metrics: what an evaluation is, to tables, figures and comparisons.

N questions of one domain, k samples a question. Shares are fractions, not per cent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nopsd.config import EvalConfig
from nopsd.errors import DataError
from nopsd.evaluation import metrics
from nopsd.evaluation.bootstrap import Interval, Outcomes, intervals, pass_ks


@dataclass(frozen=True)
class QuestionRow:
    """One question's evaluation. Lists run over its samples."""

    uid: str
    answers: list[str | None]  # as extracted; None: none could be read
    gold: str
    correct: list[bool]
    majority: str | None
    share: float  # of the majority answer among all samples
    finish_reasons: list[str]
    lengths: list[int]  # response tokens


@dataclass(frozen=True)
class DomainResult:
    """One model on one domain's questions."""

    domain: str
    rows: list[QuestionRow]
    metrics: dict[str, float]  # avg, maj, ece, pass@k, maj_minus_avg, distinct_answers, mean_length, ...
    intervals: dict[str, Interval]  # of avg, maj, ece and pass@k
    ece_bins: int
    bootstrap: int
    seed: int

    @property
    def samples(self) -> int:
        """Samples a question."""
        return len(self.rows[0].answers)

    @property
    def outcomes(self) -> Outcomes:
        """What the metrics are computed from, as arrays."""
        return _outcomes(self.rows)


@dataclass(frozen=True)
class FixBreak:
    """Majority answers before -> after on the same questions: how many went right, went wrong, or stayed."""

    fixed: int
    broken: int
    stayed_right: int
    stayed_wrong: int


def result_from_rows(domain: str, rows: Sequence[QuestionRow], config: EvalConfig) -> DomainResult:
    """All metrics and intervals of judged questions; DataError if there are none."""
    if not rows:
        raise DataError(f"domain {domain} has no evaluated questions")
    outcomes = _outcomes(rows)
    return DomainResult(
        domain=domain,
        rows=list(rows),
        metrics=_metrics(rows, outcomes, config.ece_bins),
        intervals=intervals(outcomes, config.ece_bins, config.bootstrap, config.seed),
        ece_bins=config.ece_bins,
        bootstrap=config.bootstrap,
        seed=config.seed,
    )


def _outcomes(rows: Sequence[QuestionRow]) -> Outcomes:
    return Outcomes(
        correct_Nk=np.array([row.correct for row in rows], dtype=bool),
        vote_N=np.array([row.majority == row.gold for row in rows], dtype=bool),
        share_N=np.array([row.share for row in rows]),
    )


def _metrics(rows: Sequence[QuestionRow], outcomes: Outcomes, bins: int) -> dict[str, float]:
    avg, maj = metrics.avg_at_k(outcomes.correct_Nk), metrics.maj_at_k(outcomes.vote_N)
    answers = [row.answers for row in rows]
    k = outcomes.correct_Nk.shape[1]
    return {
        "questions": len(rows),
        "samples": k,
        "avg": avg,
        "maj": maj,
        "ece": metrics.ece(outcomes.share_N, outcomes.vote_N, bins),
        **{f"pass@{j}": metrics.pass_at_k(outcomes.correct_Nk, j) for j in pass_ks(k)},
        "maj_minus_avg": maj - avg,
        "confidence": float(outcomes.share_N.mean()),
        "distinct_answers": metrics.distinct_answers(answers),
        "mean_length": metrics.mean_length([row.lengths for row in rows]),
        "unparsed": metrics.unparsed_share(answers),
        "truncated": metrics.truncated_share([row.finish_reasons for row in rows]),
    }


def fix_break(before: DomainResult, after: DomainResult) -> FixBreak:
    """How the majority answers moved between two evaluations of the same questions.

    Args:
        before: One evaluation.
        after: Another.

    Raises:
        DataError: They differ in questions or answers.
    """
    check_same_questions(before, after)
    was, now = before.outcomes.vote_N, after.outcomes.vote_N
    return FixBreak(*(int(x.sum()) for x in (~was & now, was & ~now, was & now, ~was & ~now)))


def check_same_questions(before: DomainResult, after: DomainResult) -> None:
    """DataError unless both judged the same questions, in the same order, against the same answers."""
    if [(r.uid, r.gold) for r in before.rows] != [(r.uid, r.gold) for r in after.rows]:
        raise DataError(
            f"the evaluations of {before.domain} and {after.domain} are of different questions: "
            "only the same test questions can be compared"
        )
