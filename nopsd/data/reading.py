"""How a run reads and compares answers: one reader for votes, rewards, reports and the evaluation.

Answers to questions with options are labels (`nopsd.data.answers`); to others, what `answer.judge` reads.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from nopsd.config import Config
from nopsd.data.answers import extract_answer, normalize_text_answer, visible_text
from nopsd.data.equivalence import Answers, unified
from nopsd.data.judges import AnswerJudge, AnswerStyle, judge_of
from nopsd.data.judges.base import Same
from nopsd.data.readers import own_reader
from nopsd.data.records import Question

DEFAULT = judge_of("auto", "auto", AnswerStyle())


class Response(Protocol):
    """What is read of a rollout."""

    @property
    def text(self) -> str: ...

    @property
    def truncated(self) -> bool: ...


@dataclass(frozen=True)
class AnswerReader:
    """`mode`: `strict`, `lenient`, or the evaluation's own reader (`nopsd.data.readers`), which comes before the judge.

    `format`: as `prompt.answer_format`. `unfinished`: as `answer.unfinished`. `think_open`: the prompts ended inside a
    think block.
    """

    judge: AnswerJudge = DEFAULT
    mode: str = "lenient"
    format: str = "tag"
    unfinished: str = "read"
    think_open: bool = False

    def read(self, response: Response, question: Question) -> str | None:
        """One response's answer, by itself; None if there is none that can be read."""
        if response.truncated and self.unfinished == "none":
            return None
        return self.read_text(response.text, question)

    def read_text(self, text: str, question: Question) -> str | None:
        """The answer of a whole response's text."""
        if not self._judged(question):
            return extract_answer(text, question, self.mode, self.think_open)
        visible = visible_text(text, self.think_open)
        return None if visible is None else self.judge.read(visible, question)

    def answers(self, responses: Sequence[Response], question: Question) -> Answers:
        """The responses' answers, equal where they are the same (`nopsd.data.equivalence`): ready to be voted on."""
        return unified([self.read(response, question) for response in responses], self.same(question))

    def same(self, question: Question) -> Same:
        """Whether two answers to the question are one."""
        return self.judge.same if self._judged(question) else operator.eq

    def gold(self, gold: str, question: Question) -> str | None:
        """The gold answer in the form of the answers read; None if the judge can't read it."""
        if question.options:
            return gold
        if self._judged(question):
            return self.judge.read_gold(gold, question)
        own = own_reader(self.mode)
        return (own(gold, question) if own else None) or normalize_text_answer(gold)

    def _judged(self, question: Question) -> bool:
        return own_reader(self.mode) is None and (self.judge.with_options or not question.options)


def answer_reader(config: Config, mode: str = "lenient", think_open: bool = False) -> AnswerReader:
    """The run's reader; `mode`: `eval.extract` where the evaluation reads. ConfigError if code can't be loaded."""
    asked, answer = config.prompt, config.answer
    style = AnswerStyle(mode != "strict", asked.answer_format, answer.tolerance)
    if mode == "strict" and asked.answer_format != "tag":
        mode = "lenient"  # labels are read strictly from tags alone
    judge = judge_of(answer.judge, asked.answer, style)
    return AnswerReader(judge, mode, asked.answer_format, answer.unfinished, think_open)
