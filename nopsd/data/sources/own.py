"""A data set of a user's own: one function under the decorator `data_set`, in a file of theirs (nopsd.plugins).

    @data_set
    def capitals(config):
        yield Question("capital-1", config.domain, "capitals", "What is the capital of Norway?"), "Oslo"

It yields each question with its answer, or None. Answers are left behind here: what selects and trains gets the
questions alone. If any has an answer, a test is split off by domain (`data.test_ratio`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nopsd.config import DataConfig
from nopsd.data.records import AnswerKey, Question
from nopsd.data.splits import Splits, check_unique, split_by_domain

Rows = Callable[[DataConfig], Iterable[tuple[Question, str | None]]]


@dataclass(frozen=True)
class DataSet:
    """Has what a source of ours has; `rows` must yield the same whenever it is called."""

    rows: Rows

    def load_splits(self, config: DataConfig) -> Splits:
        """Pool and tests, without answers; DataError for ids used twice and questions without text."""
        answered, questions = False, []
        for question, answer in self.rows(config):
            questions.append(question)
            answered = answered or answer is not None
        check_unique(questions, [f"data.name={config.name}, row {n}" for n in range(1, len(questions) + 1)])
        if not answered:
            return Splits([q for q in questions if q.domain == config.domain], {})
        return split_by_domain(questions, config.domain, config.test_ratio, config.seed)

    def load_answers(self, config: DataConfig) -> AnswerKey:
        """uid -> gold answer."""
        return {question.uid: answer for question, answer in self.rows(config) if answer is not None}


def data_set(rows: Rows) -> DataSet:
    """Make a data set of a function DataConfig -> (question, its answer or None), one after the other."""
    return DataSet(rows)
