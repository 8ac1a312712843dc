"""Answer extraction: one function for evaluation, voting and reports (SPEC §9.2; the order matters)."""

from __future__ import annotations

import re

from nopsd.data.records import Question
from nopsd.data.wording import answer_kind

_TAG = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL | re.IGNORECASE)
_TAG_LETTER = re.compile(r"<answer>\s*\(?([A-J])\)?[.:)]?\s*</answer>")
_BOXED = re.compile(r"\\boxed\{\s*(?:\\text\{)?\s*\(?([^{}]*?)\)?\s*\}?\}")
_LENIENT = (re.compile(r"answer is \(?([A-J])\)?"), re.compile(r"[aA]nswer:\s*\(?([A-J])"), re.compile(r"\b([A-J])\b"))


def visible_text(response: str) -> str | None:
    """What follows the last `</think>`; None if generation stopped inside an open think block.

    Never a paired-tag search: templates that open the block in the prompt leave only the closing tag.
    """
    if "</think>" in response:
        return response.rsplit("</think>", 1)[1]
    return None if "<think>" in response else response


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.findall(text)
    return found[-1] if found else None


def _letter(text: str, question: Question, lenient: bool) -> str | None:
    answer = _last(_TAG_LETTER, text)
    if answer is None and lenient:
        boxed = _last(_BOXED, text)
        answer = boxed if boxed and len(boxed) == 1 else None
        for pattern in _LENIENT:
            answer = answer or _last(pattern, text)
    return answer if answer in {o.label for o in question.options} else None


def _phrase(text: str, question: Question, lenient: bool) -> str | None:
    tagged = _last(_TAG, text)
    searched = tagged if tagged is not None else (text if lenient else "")
    # Longest first: "without explanation" before "with explanation".
    for option in sorted(question.options, key=lambda o: -len(o.label)):
        if re.search(rf"\b{re.escape(option.label)}\b", searched, re.IGNORECASE):
            return option.label
    return None


def _text(text: str, lenient: bool) -> str | None:
    answer = _last(_TAG, text)
    if answer is None and lenient:
        answer = _last(_BOXED, text)
    return normalize_text_answer(answer) or None if answer is not None else None


def normalize_text_answer(answer: str) -> str:
    """Free-text answers are compared case-folded with single spaces and no closing full stop."""
    return " ".join(answer.split()).casefold().rstrip(".")


def extract_answer(response: str, question: Question, mode: str = "lenient") -> str | None:
    """The answer a response gives to `question`, or None if it gives none that can be read.

    `mode` is `strict` (answer tags only) or `lenient` (then `\\boxed{}`, "answer is X", "Answer: X",
    the last lone capital). A letter or phrase that is not among the question's options is None.
    """
    if mode not in ("strict", "lenient"):
        raise ValueError(f"extraction mode {mode!r}: use 'strict' or 'lenient'")
    text = visible_text(response)
    if text is None:
        return None
    lenient = mode == "lenient"
    kind = answer_kind(question)
    if kind == "letter":
        return _letter(text, question, lenient)
    return _phrase(text, question, lenient) if kind == "phrase" else _text(text, lenient)
