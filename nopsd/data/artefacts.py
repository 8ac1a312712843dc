"""Files of the data stage: the pool and the tests without answers.

| file | what |
|---|---|
| pool.jsonl | a question of the pool a row (`Question`), no answer |
| holdout.jsonl | questions held out of the pool, of both models' answers without labels; none: no such file |
| tests.jsonl | test questions of all domains, no answer |
| responses.jsonl | {uid, text}: of data that bring their own responses |
| data.json | sizes, hash of the pool, longest prompts, overlap, a note where the splits aren't the published ones |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nopsd.data.overlap import sentences
from nopsd.data.records import Question
from nopsd.data.splits import Splits
from nopsd.files import read_json, read_jsonl, write_json, write_jsonl

POOL, TESTS, RESPONSES, FACTS = "pool.jsonl", "tests.jsonl", "responses.jsonl", "data.json"
HOLDOUT = "holdout.jsonl"


def write_data(
    folder: Path,
    splits: Splits,
    tests: Sequence[Question],
    facts: Mapping[str, Any],
) -> None:
    """Write the stage's files: the splits' pool, its given responses and what is held out; the tests as chosen."""
    if splits.responses is not None:
        given = splits.responses
        write_jsonl(folder / RESPONSES, [{"uid": q.uid, "text": given[q.uid]} for q in splits.pool])
    if splits.held:
        write_jsonl(folder / HOLDOUT, [q.to_json() for q in splits.held])
    write_jsonl(folder / POOL, [q.to_json() for q in splits.pool])
    write_jsonl(folder / TESTS, [q.to_json() for q in tests])
    write_json(folder / FACTS, dict(facts))


def read_pool(folder: Path) -> list[Question]:
    """The pool's questions; ArtefactError if the file is missing or damaged, as of all readers here."""
    return [Question.from_json(row) for row in read_jsonl(folder / POOL)]


def read_holdout(folder: Path) -> list[Question]:
    """The questions held out of the pool; none where none are."""
    path = folder / HOLDOUT
    return [Question.from_json(row) for row in read_jsonl(path)] if path.exists() else []


def read_tests(folder: Path) -> dict[str, list[Question]]:
    """Test questions by domain."""
    tests: dict[str, list[Question]] = {}
    for row in read_jsonl(folder / TESTS):
        tests.setdefault(row["domain"], []).append(Question.from_json(row))
    return tests


def read_responses(folder: Path) -> dict[str, str] | None:
    """uid -> given response; None for data without."""
    path = folder / RESPONSES
    return {row["uid"]: row["text"] for row in read_jsonl(path)} if path.exists() else None


def read_notes(folder: Path) -> list[str]:
    """Where pool and test aren't the published ones how they differ, and what `read_overlap` says: a sentence each."""
    facts = read_json(folder / FACTS)
    return [*filter(None, [facts.get("note", "")]), *sentences(facts)]


def read_overlap(folder: Path) -> list[str]:
    """Which test questions stand in the pool too, and which of the pool's are asked twice: a sentence each."""
    return sentences(read_json(folder / FACTS))
