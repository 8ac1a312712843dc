"""What an answer judge is.

    @answer_judge(same=close)
    def number(text: str, question: Question) -> str | None: ...

`text` is a response without its thinking, or the gold answer; what is returned is its answer, None if none can be read.
`same` says of two answers whether they are one; without it they are if they are equal.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

from nopsd.config import AnswerConfig
from nopsd.data.records import Question

Read = Callable[[str, Question], str | None]
Same = Callable[[str, str], bool]


@dataclass(frozen=True)
class AnswerStyle:
    """What a judge of ours is made for: whether prose is read too, where the answer is asked to stand
    (`prompt.answer_format`), and `answer.tolerance`."""

    lenient: bool = True
    format: str = "tag"
    tolerance: float = AnswerConfig.tolerance


@dataclass(frozen=True)
class AnswerJudge:
    """`read` and `same` as above; `gold`: how a gold answer is read, None: as a response.

    `with_options`: it judges questions with options too; ours leave these to their labels.
    """

    read: Read
    same: Same = operator.eq
    gold: Read | None = None
    with_options: bool = False

    def read_gold(self, gold: str, question: Question) -> str | None:
        """The gold answer as this judge compares it."""
        return (self.gold or self.read)(gold, question)


def answer_judge(same: Same = operator.eq) -> Callable[[Read], AnswerJudge]:
    """Makes a judge of a function that reads answers."""

    def made(read: Read) -> AnswerJudge:
        return AnswerJudge(read, same, with_options=True)

    return made
