"""Our judges of answers to questions without options, by name, and a user's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

from nopsd.config import ENTRY_POINTS
from nopsd.data.answers import extract_answer, normalize_text_answer
from nopsd.data.judges.base import AnswerJudge, AnswerStyle
from nopsd.data.judges.latex import math_judge
from nopsd.data.judges.numbers import close, last_number, read_number
from nopsd.data.judges.stated import stated
from nopsd.data.labels import core
from nopsd.data.records import Option, Question
from nopsd.plugins import is_own, resolve

KEY = "answer.judge"
GROUP = ENTRY_POINTS[KEY]
LETTERS = tuple(Option(letter, letter) for letter in "ABCDEFGHIJ")


def _text(style: AnswerStyle) -> AnswerJudge:
    """Case-folded, with single spaces and no closing full stop."""

    def read(text: str, question: Question) -> str | None:
        return normalize_text_answer(stated(text, style) or "") or None

    return AnswerJudge(read, gold=lambda gold, question: normalize_text_answer(gold) or None)


def _exact(style: AnswerStyle) -> AnswerJudge:
    """As written, without the spaces around it."""

    def read(text: str, question: Question) -> str | None:
        return (stated(text, style) or "").strip() or None

    return AnswerJudge(read, gold=lambda gold, question: gold.strip() or None)


def _letter(style: AnswerStyle) -> AnswerJudge:
    """One of A to J, for options that stand in the question's own text."""
    lenient = style.lenient or style.format != "tag"

    def read(text: str, question: Question) -> str | None:
        return extract_answer(text, replace(question, options=LETTERS), "lenient" if lenient else "strict")

    return AnswerJudge(read, gold=lambda gold, question: core(gold.strip()).upper() or None)


def _numeric(style: AnswerStyle) -> AnswerJudge:
    """A number, whatever its form."""

    def read(text: str, question: Question) -> str | None:
        return read_number(text, style)

    return AnswerJudge(read, partial(close, tolerance=style.tolerance), last_number)


JUDGES: dict[str, Callable[[AnswerStyle], AnswerJudge]] = {
    "text": _text,
    "exact": _exact,
    "letter": _letter,
    "numeric": _numeric,
    "math": math_judge,
}
BY_ANSWER = {"number": "numeric", "letter": "letter"}  # what answer.judge=auto means by prompt.answer


@cache
def judge_of(name: str, answer: str, style: AnswerStyle) -> AnswerJudge:
    """The judge that `answer.judge=name` means; `answer`: prompt.answer. ConfigError if a user's can't be loaded."""
    if is_own(name, GROUP):
        return resolve(KEY, name, {}, GROUP, AnswerJudge)
    return JUDGES[BY_ANSWER.get(answer, "text") if name == "auto" else name](style)
