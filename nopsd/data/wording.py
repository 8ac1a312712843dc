"""The words around a question: system message, options, demonstrations.

Pure text, shared by student and teacher: the teacher's message is a header, the demonstrations,
a separator and then *exactly* the student's message. Token ids are `nopsd.data.prompts`' business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nopsd.data.records import Question

SYSTEM_LETTER = (
    "Reason about the question, then give only the letter of the right option between <answer> and </answer>."
)
SYSTEM_TEXT = "Reason about the question, then give only the answer between <answer> and </answer>."
ASK_LETTER = "Reason first, then answer with one letter."
ASK_PHRASE = "Reason first, then answer with one of the phrases above."
DEMOS_HEADER = "Solved examples:"
TARGET_SEPARATOR = "Now the question:"


@dataclass(frozen=True)
class Demonstration:
    """A pool question with the model's own solution to it (no label, no verification)."""

    question: Question
    solution: str


def answer_kind(question: Question) -> str:
    """`letter` (options A, B, …), `phrase` (options whose label is their text) or `text` (no options)."""
    if not question.options:
        return "text"
    return "letter" if all(len(o.label) == 1 for o in question.options) else "phrase"


def system_message(question: Question) -> str:
    """How the answer is to be given."""
    return SYSTEM_LETTER if answer_kind(question) == "letter" else SYSTEM_TEXT


def question_text(question: Question) -> str:
    """Question and options, as they stand in a demonstration and in the student's own message."""
    kind = answer_kind(question)
    if kind == "text":
        return question.question
    if kind == "phrase":
        lines = [f"- {o.label}" for o in question.options]
    else:
        lines = [f"{o.label}: {o.text}" for o in question.options]
    return question.question + "\n\n" + "\n".join(lines)


def student_message(question: Question) -> str:
    """The user message of the zero-shot prompt."""
    ask = {"letter": ASK_LETTER, "phrase": ASK_PHRASE, "text": ""}[answer_kind(question)]
    return question_text(question) + (f"\n\n{ask}" if ask else "")


def teacher_message(question: Question, demonstrations: Sequence[Demonstration], ask: bool = True) -> str:
    """The user message with demonstrations, in the order given; without any it is the student's.

    `ask=False` leaves the question out: the context alone.
    """
    asked = [student_message(question)] if ask else []
    if not demonstrations:
        return "".join(asked)
    shown = [f"Question: {question_text(d.question)}\nSolution: {d.solution}" for d in demonstrations]
    return "\n\n".join([DEMOS_HEADER, *shown, TARGET_SEPARATOR, *asked])


def chat_messages(
    question: Question, demonstrations: Sequence[Demonstration] = (), ask: bool = True
) -> list[dict[str, str]]:
    """The conversation handed to the tokenizer's chat template, for either role."""
    return [
        {"role": "system", "content": system_message(question)},
        {"role": "user", "content": teacher_message(question, demonstrations, ask)},
    ]
