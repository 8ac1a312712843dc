"""The words around a question: system message, options, demonstrations.

Pure text, shared by student and teacher: the teacher's message is a header, the demonstrations,
a separator and then *exactly* the student's message. Token ids are `nopsd.data.prompts`' business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nopsd.data.labels import labels_of
from nopsd.data.records import Question

SYSTEM_LETTER = (
    "Reason about the question, then give only the letter of the right option between <answer> and </answer>."
)
SYSTEM_TEXT = "Reason about the question, then give only the answer between <answer> and </answer>."
ASK_LETTER = "Reason first, then answer with one letter."
SYSTEM_LABEL = "Reason about the question, then give only the label of the right option between <answer> and </answer>."
ASK_LABEL = "Reason first, then answer with one label."
ASK_PHRASE = "Reason first, then answer with one of the phrases above."
DEMOS_HEADER = "Solved examples:"
TARGET_SEPARATOR = "Now the question:"


@dataclass(frozen=True)
class Demonstration:
    """A pool question with the model's own solution to it (no label, no verification)."""

    question: Question
    solution: str


def answer_kind(question: Question) -> str:
    """`letter` (options A, B, …, or 1, 2, …), `phrase` (options whose label is a word or more) or `text` (none)."""
    if not question.options:
        return "text"
    return "letter" if labels_of(tuple(o.label for o in question.options)).symbols else "phrase"


def _by_letters(question: Question) -> bool:
    return labels_of(tuple(o.label for o in question.options)).letters


def _by_texts(question: Question) -> bool:
    """Each label is its text."""
    return all(o.label == o.text for o in question.options)


def system_message(question: Question) -> str:
    """How the answer is to be given."""
    if answer_kind(question) == "letter":
        return SYSTEM_LETTER if _by_letters(question) else SYSTEM_LABEL
    return SYSTEM_TEXT if not question.options or _by_texts(question) else SYSTEM_LABEL


def question_text(question: Question) -> str:
    """Question and options, as they stand in a demonstration and in the student's own message."""
    if not question.options:
        return question.question
    if answer_kind(question) == "phrase" and _by_texts(question):
        lines = [f"- {o.label}" for o in question.options]
    else:
        lines = [f"{o.label}: {o.text}" for o in question.options]
    return question.question + "\n\n" + "\n".join(lines)


def student_message(question: Question) -> str:
    """The user message of the zero-shot prompt."""
    if not question.options:
        return question.question
    if answer_kind(question) == "letter":
        ask = ASK_LETTER if _by_letters(question) else ASK_LABEL
    else:
        ask = ASK_PHRASE if _by_texts(question) else ASK_LABEL
    return f"{question_text(question)}\n\n{ask}"


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
