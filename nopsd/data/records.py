"""The internal record of a question, and, kept apart from it, the answer key.

A `Question` has no answer field at all: code that is handed questions cannot read a label,
however hard it tries. Answers travel in an `AnswerKey`, which only evaluation loads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """One answer option: its label ("A", or a phrase) and its text (may equal the label)."""

    label: str
    text: str


@dataclass(frozen=True)
class Question:
    """One unlabeled question. `uid` is unique in its data set, `domain` names its ranking group."""

    uid: str
    domain: str
    source: str
    question: str
    options: tuple[Option, ...] = ()
    level: str | None = None
    category: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Question:
        options = tuple(Option(o["label"], o["text"]) for o in row.get("options") or ())
        return cls(
            uid=row["uid"],
            domain=row["domain"],
            source=row["source"],
            question=row["question"],
            options=options,
            level=row.get("level"),
            category=row.get("category"),
        )


# uid -> gold answer: an option label, or the answer's text where the question has no options.
AnswerKey = dict[str, str]


def questions_hash(questions: Iterable[Question]) -> str:
    """SHA-256 over the questions in order: the identity of a pool (answers play no part)."""
    digest = hashlib.sha256()
    for question in questions:
        digest.update(json.dumps(question.to_json(), sort_keys=True, ensure_ascii=False).encode())
        digest.update(b"\n")
    return digest.hexdigest()
