"""The words around a question: system message, options, instruction, demonstrations, by the `prompt` section.

Pure text, shared by student and teacher: the teacher's message is a header, the demonstrations, a separator and then
*exactly* the student's message; as turns, demonstrations are asked as the student is. Token ids are
`nopsd.data.prompts`' business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nopsd.config import PromptConfig
from nopsd.data.labels import labels_of
from nopsd.data.records import Question

OURS = PromptConfig()
NONE = "none"  # of prompt.system and prompt.instruction: leave it out
PLACES = {
    "tag": " between <answer> and </answer>",
    "box": " in \\boxed{}",
    "line": " in a last line that begins with `Answer:`",
    "bare": "",
}
ANSWERS = {"tag": "<answer>{}</answer>", "box": "\\boxed{{{}}}", "line": "Answer: {}", "bare": "{}"}
ASK_PHRASE = "Reason first, then answer with one of the phrases above."
DEMOS_HEADER = "Solved examples:"
TARGET_SEPARATOR = "Now the question:"
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


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


def answer_format(question: Question, prompt: PromptConfig = OURS) -> str:
    """What the answer is and where it is to stand: the letter of the right option between <answer> and </answer>."""
    kind = answer_kind(question)
    if kind == "letter":
        what = "the letter of the right option" if _by_letters(question) else "the label of the right option"
    elif kind == "phrase":
        what = "the answer" if _by_texts(question) else "the label of the right option"
    else:
        what = {"number": "the number", "letter": "the letter of the right option"}.get(prompt.answer, "the answer")
    return what + PLACES[prompt.answer_format]


def system_message(question: Question, prompt: PromptConfig = OURS) -> str:
    """How the answer is to be given; empty: there is no system message."""
    if prompt.system == NONE:
        return ""
    asked = "Reason about the question, then give only {format}." if prompt.system is None else prompt.system
    return _filled(asked, {"format": answer_format(question, prompt)})


def options_text(question: Question) -> str:
    """The options, a line each; empty where there are none."""
    if answer_kind(question) == "phrase" and _by_texts(question):
        return "\n".join(f"- {o.label}" for o in question.options)
    return "\n".join(f"{o.label}: {o.text}" for o in question.options)


def question_text(question: Question) -> str:
    """Question and options, as they stand in a demonstration and in the student's own message."""
    return f"{question.question}\n\n{options_text(question)}" if question.options else question.question


def instruction(question: Question, prompt: PromptConfig = OURS) -> str:
    """What is asked for behind the question; empty: nothing."""
    if prompt.instruction is not None:
        asked = "" if prompt.instruction == NONE else prompt.instruction
        return _filled(asked, {"format": answer_format(question, prompt)})
    kind = answer_kind(question)
    if kind == "phrase":
        return ASK_PHRASE if _by_texts(question) else "Reason first, then answer with one label."
    if kind == "letter":
        return f"Reason first, then answer with one {'letter' if _by_letters(question) else 'label'}."
    return f"Reason first, then answer with one {prompt.answer}." if prompt.answer in ("number", "letter") else ""


def student_message(question: Question, prompt: PromptConfig = OURS) -> str:
    """The user message of the zero-shot prompt."""
    apart = "{options}" in prompt.question
    values = {
        "question": question.question if apart else question_text(question),
        "options": options_text(question),
        "instruction": instruction(question, prompt),
        "format": answer_format(question, prompt),
    }
    paragraphs = [part for part in prompt.question.split("\n\n") if not _is_empty(part, values)]
    return "\n\n".join(_filled(part, values) for part in paragraphs)


def _filled(template: str, values: Mapping[str, str]) -> str:
    """Placeholders by their values in one pass; other braces are text."""
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), template)


def _is_empty(paragraph: str, values: Mapping[str, str]) -> bool:
    """It has placeholders, and nothing would stand in it."""
    return bool(_PLACEHOLDER.search(paragraph)) and not _filled(paragraph, values).strip()


def teacher_message(
    question: Question, demonstrations: Sequence[Demonstration], ask: bool = True, prompt: PromptConfig = OURS
) -> str:
    """The user message with demonstrations, in the order given; without any it is the student's.

    `ask=False` leaves the question out: the context alone.
    """
    asked = [student_message(question, prompt)] if ask else []
    if not demonstrations:
        return "".join(asked)
    shown = [f"Question: {question_text(d.question)}\nSolution: {d.solution}" for d in demonstrations]
    return "\n\n".join([DEMOS_HEADER, *shown, TARGET_SEPARATOR, *asked])


def chat_messages(
    question: Question,
    demonstrations: Sequence[Demonstration] = (),
    ask: bool = True,
    prompt: PromptConfig = OURS,
    placement: str = "inline",
) -> list[dict[str, str]]:
    """The conversation handed to the tokenizer's chat template, for either role.

    Args:
        question: What is asked.
        demonstrations: In the order in which they are shown.
        ask: False: the demonstrations alone.
        prompt: The words.
        placement: `context.placement`; `turns`: the user asks each demonstration's question, the assistant solves it.

    Returns:
        Roles and contents.
    """
    system = system_message(question, prompt)
    turns = [{"role": "system", "content": system}] if system else []
    if placement == "turns" and demonstrations:
        for shown in demonstrations:
            turns.append({"role": "user", "content": student_message(shown.question, prompt)})
            turns.append({"role": "assistant", "content": shown.solution})
        last = student_message(question, prompt) if ask else TARGET_SEPARATOR
    else:
        last = teacher_message(question, demonstrations, ask, prompt)
    return [*turns, {"role": "user", "content": last}]
