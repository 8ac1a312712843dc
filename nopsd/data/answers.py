"""Answer extraction: one function for evaluation, voting and reports (SPEC §9.2; the order matters)."""

from __future__ import annotations

import re

from nopsd.data.records import Question
from nopsd.data.wording import answer_kind

# The innermost tag: a response that opens two and closes one means the second.
_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)
_TAG_LETTER = re.compile(r"<answer>\s*\(?([A-J])\)?[.:)]?\s*</answer>")
_WRAP = r"(?:\\(?:text|textbf|mathrm|mathbf)\{)?"
_BOXED = re.compile(rf"\\boxed\{{\s*{_WRAP}([^{{}}]*)\}}?\s*\}}")
_BOXED_LETTER = re.compile(rf"\\boxed\{{\s*{_WRAP}\s*\(?([A-J])\)?[.:)]?\s*\}}?\s*\}}")
# MMLU-Pro's own chain: its first step is a search (the first hit), the others take the last.
_ANSWER_IS = re.compile(r"answer is \(?([A-J])\)?")
_ANSWER_COLON = re.compile(r"[aA]nswer:\s*\(?([A-J])")
_LONE = re.compile(r"\b([A-J])\b")


def leaves_think_open(suffix: str) -> bool:
    """Whether a generation suffix (decoded) opens a think block, so that the response begins inside it."""
    return suffix.rfind("<think>") > suffix.rfind("</think>")


def visible_text(response: str, think_open: bool = False) -> str | None:
    """What follows the last `</think>`; None if generation stopped inside a think block.

    Never a paired-tag search: templates that open the block in the prompt (`think_open`) leave only
    the closing tag, and a response cut inside the block shows no tag at all.
    """
    _, closed, visible = response.rpartition("</think>")
    if "<think>" in visible or (think_open and not closed):
        return None
    return visible


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.findall(text)
    return found[-1] if found else None


def _letter(text: str, question: Question, lenient: bool) -> str | None:
    answer = _last(_TAG_LETTER, text)
    if answer is None and lenient:
        stated = _ANSWER_IS.search(text)
        answer = _last(_BOXED_LETTER, text) or (stated and stated.group(1))
        answer = answer or _last(_ANSWER_COLON, text) or _last(_LONE, text)
    return answer if answer in {o.label for o in question.options} else None


def _phrase(text: str, question: Question, lenient: bool) -> str | None:
    tagged = _last(_TAG, text)
    if tagged is None and not lenient:
        return None
    # Longest first, so that where one label begins with another the longer is seen.
    labels = {" ".join(o.label.split()).casefold(): o.label for o in question.options}
    choices = "|".join(r"\s+".join(map(re.escape, label.split())) for label in sorted(labels, key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)({choices})(?!\w)", re.IGNORECASE)
    found = _last(pattern, text if tagged is None else tagged)
    return None if found is None else labels.get(" ".join(found.split()).casefold())


def _text(text: str, lenient: bool) -> str | None:
    answer = _last(_TAG, text)
    if answer is None and lenient:
        answer = _last(_BOXED, text)
    return normalize_text_answer(answer) or None if answer is not None else None


def normalize_text_answer(answer: str) -> str:
    """Free-text answers are compared case-folded with single spaces and no closing full stop."""
    return " ".join(answer.split()).casefold().rstrip(". ")


def extract_answer(response: str, question: Question, mode: str = "lenient", think_open: bool = False) -> str | None:
    """The answer a response gives to `question`, or None if it gives none that can be read.

    `mode` is `strict` (answer tags only) or `lenient` (then `\\boxed{}`, "answer is X", "Answer: X",
    the last lone capital). A letter or phrase that is not among the question's options is None.
    `think_open`: the prompt left a think block open (`leaves_think_open`).
    """
    if mode not in ("strict", "lenient"):
        raise ValueError(f"extraction mode {mode!r}: use 'strict' or 'lenient'")
    text = visible_text(response, think_open)
    if text is None:
        return None
    lenient = mode == "lenient"
    kind = answer_kind(question)
    if kind == "letter":
        return _letter(text, question, lenient)
    return _phrase(text, question, lenient) if kind == "phrase" else _text(text, lenient)
