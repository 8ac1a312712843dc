"""Questions that stand in the pool and in a test: as whole items, or by their stem alone. Label-free.

A question is the same as another if its text is and its options are, in any order. Its stem is its text alone: one with
other options may be another question ("Which is true?"), or the same fact asked twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from nopsd.data.records import Question
from nopsd.data.splits import Splits


@dataclass(frozen=True)
class Overlap:
    """Of one test: its questions, those that the pool holds whole, and those that it holds by the stem."""

    tests: int
    items: int
    stems: int


def plain(text: str) -> str:
    """Case-folded with single spaces."""
    return " ".join(text.split()).casefold()


def stem(question: Question) -> str:
    """The question's text, as it is compared."""
    return plain(question.question)


def identity(question: Question) -> str:
    """Equal for two questions of the same text with the same options, in any order."""
    return "\n".join([stem(question), *sorted(plain(option.text) for option in question.options)])


def overlaps(splits: Splits) -> dict[str, Overlap]:
    """By domain of the tests."""
    items, stems = {identity(q) for q in splits.pool}, {stem(q) for q in splits.pool}
    return {
        domain: Overlap(len(tests), sum(identity(q) in items for q in tests), sum(stem(q) in stems for q in tests))
        for domain, tests in splits.tests.items()
    }


def decontaminated(splits: Splits) -> Splits:
    """Without pool questions whose stem a test has."""
    tested = {stem(q) for tests in splits.tests.values() for q in tests}
    return replace(splits, pool=[q for q in splits.pool if stem(q) not in tested])


def repeated(questions: Sequence[Question]) -> int:
    """How many are asked before in the same list."""
    return sum(count - 1 for count in Counter(map(identity, questions)).values())


def facts_of(splits: Splits) -> dict[str, Any]:
    """For the data stage's record."""
    found = {domain: asdict(overlap) for domain, overlap in overlaps(splits).items()}
    return {"overlap": found, "repeated": repeated(splits.pool)}


def sentences(facts: Mapping[str, Any]) -> list[str]:
    """What a user has to know of `facts_of`, a sentence each; nothing where nothing overlaps."""
    said = [
        f"{found['stems']} of {found['tests']} test questions of {domain} stand in the pool by their text, "
        f"{found['items']} of them with the same options (data.decontaminate=true leaves them out of the pool)."
        for domain, found in facts.get("overlap", {}).items()
        if found["stems"]
    ]
    count = facts.get("repeated", 0)
    return said + ([f"{count} questions of the pool are asked twice."] if count else [])
