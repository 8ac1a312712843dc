"""Both roles' prompts side by side, text and ids, before anything is trained on them.

In: the renderer and pool questions. Out: lines to read, and whether the prompts agree where they must: the teacher's
ends in exactly the student's question and generation suffix.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from nopsd.cluster.findings import ERROR, OK, Finding
from nopsd.data.prompts import PromptRenderer
from nopsd.data.records import Question
from nopsd.data.wording import Demonstration

PLACEHOLDER = "(here the model's own answer to this question)"
COLUMN = 56
SHOWN_IDS = 12


@dataclass(frozen=True)
class Pair:
    """One question's prompts, as token ids, and their text with special tokens."""

    student: list[int]
    teacher: list[int]
    student_text: str
    teacher_text: str
    kept: int
    suffix: int  # tokens of the generation suffix


def render_pair(
    renderer: PromptRenderer,
    pool: Sequence[Question],
    shown: int,
    max_tokens: int,
    order: Sequence[int] | None = None,
) -> Pair:
    """Both roles' prompts of the pool's first question; the next ones stand for its demonstrations, nearest first.

    Args:
        renderer: The model's.
        pool: At least one question.
        shown: Demonstrations.
        max_tokens: Length of the teacher's prompt, at most.
        order: In which they are shown, as for `PromptRenderer.teacher`.
    """
    question, *others = pool[: shown + 1]
    demonstrations = [Demonstration(q, PLACEHOLDER) for q in others]
    student = renderer.student(question)
    teacher = renderer.teacher(question, demonstrations, max_tokens, order)
    decode: Any = renderer.tokenizer.decode
    return Pair(
        student, teacher.ids, decode(student), decode(teacher.ids), teacher.kept, len(renderer.suffix(question))
    )


def check_pair(pair: Pair, asked: int) -> list[Finding]:
    """That both ask the same question in the same tokens, and that every demonstration fits."""
    common = 0
    for a, b in zip(reversed(pair.student), reversed(pair.teacher)):
        if a != b:
            break
        common += 1
    if common < pair.suffix:
        return [
            Finding("prompts", "all", ERROR, "student and teacher prompts end differently: correct the chat template")
        ]
    if pair.kept < asked:
        message = f"{pair.kept} of {asked} demonstrations fit context.max_prompt, even with short answers: raise it"
        return [Finding("prompts", "all", ERROR, message)]
    message = f"student {len(pair.student)} tokens, teacher {len(pair.teacher)}, the last {common} the same"
    return [Finding("prompts", "all", OK, message)]


def side_by_side(pair: Pair) -> str:
    """Two columns of text, then the first and last ids of both."""
    columns = [
        _wrapped(f"student ({len(pair.student)} tokens)", pair.student_text),
        _wrapped(f"teacher ({len(pair.teacher)} tokens)", pair.teacher_text),
    ]
    rows = [f"{a:<{COLUMN}} | {b}".rstrip() for a, b in zip_longest(*columns, fillvalue="")]
    ids = [f"{role} ids: {_ends(found)}" for role, found in (("student", pair.student), ("teacher", pair.teacher))]
    return "\n".join([*rows, "", *ids])


def _wrapped(title: str, text: str) -> list[str]:
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, COLUMN) or [""]]
    return [title, "-" * len(title), *lines]


def _ends(ids: Sequence[int]) -> str:
    if len(ids) <= 2 * SHOWN_IDS:
        return " ".join(map(str, ids))
    return f"{' '.join(map(str, ids[:SHOWN_IDS]))} … {' '.join(map(str, ids[-SHOWN_IDS:]))}"
