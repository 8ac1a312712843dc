"""The one place that reads a label before evaluation: what method opsd_oracle shows its teacher.

In: the pool, its zero-shot rollouts, the answer key. Out: each question with a solution that is right. An upper
reference for what demonstrations could do, and no label-free result.
"""

from __future__ import annotations

from collections.abc import Sequence

from nopsd.config import METHODS
from nopsd.data.demonstrations import solution_text
from nopsd.data.reading import AnswerReader
from nopsd.data.records import AnswerKey, Question
from nopsd.data.wording import ANSWERS, Demonstration
from nopsd.errors import ConfigError, DataError
from nopsd.evaluation.evaluate import agrees, group_by_question
from nopsd.evaluation.judge import Judge
from nopsd.rollout.types import Rollout

WARNING = (
    "method=opsd_oracle reads the pool's answers while it trains: an upper reference, not to be compared as a "
    "label-free method."
)
GIVEN = (
    "method={} trains on the outputs that come with the data, which are labels: not to be compared as a label-free "
    "method."
)


def label_warning(method: str) -> str:
    """What must be said of a method that reads labels; empty of any other."""
    if not METHODS[method].reads_labels:
        return ""
    return WARNING if METHODS[method].shows_answers else GIVEN.format(method)


def pool_key(judge: Judge, pool: Sequence[Question]) -> AnswerKey:
    """The pool's gold answers by uid. ConfigError unless the method is one that reads labels; DataError, naming a
    question, if one has none."""
    method = judge.config.method
    if not METHODS[method].shows_answers:
        raise ConfigError(f"method={method} must not read the pool's answers: only opsd_oracle may")
    unknown = [q.uid for q in pool if not judge.key.get(q.uid)]
    if unknown:
        raise DataError(
            f"method={method} shows the teacher right answers, and {len(unknown)} of {len(pool)} pool questions "
            f"have none (first: {unknown[0]}): give data with answers, or take another method"
        )
    return {q.uid: judge.key[q.uid] for q in pool}


def right_solutions(
    judge: Judge, questions: Sequence[Question], rollouts: Sequence[Rollout], reader: AnswerReader
) -> dict[str, Demonstration]:
    """Each question with the first of its own whole rollouts that is right, else with its gold answer.

    Args:
        judge: Holds the answer key.
        questions: Those that are trained on.
        rollouts: Their zero-shot responses.
        reader: Of answers.

    Raises:
        ConfigError: The method isn't one that reads labels.
        DataError: A question has no answer.
    """
    key, solution, solutions = pool_key(judge, questions), judge.config.context.solution, {}
    own = group_by_question(sorted(rollouts, key=lambda r: (r.uid, r.sample)))
    for question in questions:
        gold = key[question.uid]
        wanted, same = reader.gold(gold, question), reader.same(question)
        verified = (
            solution_text(r.text, question, solution, reader)
            for r in own.get(question.uid, ())
            if not r.truncated and agrees(reader.read(r, question), wanted, same)
        )
        found = next((text for text in verified if text is not None), None)
        solutions[question.uid] = Demonstration(question, found or ANSWERS[reader.format].format(gold))
    return solutions
