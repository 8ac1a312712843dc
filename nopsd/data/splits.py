"""What a source gives: the pool, the tests, and how a domain is split into them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace

from nopsd.data.records import Question
from nopsd.errors import DataError

HELD_AT_MOST = 250  # questions held out where nobody says how many


@dataclass(frozen=True)
class Splits:
    """The pool of one domain, and test questions by domain (the pool's own among them, if it has any)."""

    pool: list[Question]
    tests: dict[str, list[Question]]
    note: str = ""  # where they aren't the published splits: a sentence for the report
    responses: dict[str, str] | None = None  # uid -> given response, of a source that brings them
    targets: dict[str, str] = field(default_factory=dict)  # other data sets of eval.targets -> their domain in `tests`
    held: tuple[Question, ...] = ()  # of the pool, held out of it: nothing is trained on them, and no label is needed


def check_unique(questions: list[Question], places: list[str]) -> None:
    """Refuse two equal ids and questions without text, naming their places."""
    seen: dict[str, str] = {}
    for question, place in zip(questions, places, strict=True):
        if not question.question.strip():
            raise DataError(f"{place}: question {question.uid} has no text")
        if question.uid in seen:
            uid = " ".join(question.uid.split())
            raise DataError(f"{place}: id {uid} was used before, at {seen[question.uid]}; ids must be unique")
        seen[question.uid] = place


def split_by_domain(questions: list[Question], domain: str, test_ratio: float, seed: int) -> Splits:
    """Split each domain as `datasets.Dataset.train_test_split` does: the paper's exact sizes.

    Args:
        questions: Of all domains.
        domain: The pool's.
        test_ratio: Share of a domain's questions that is held out.
        seed: Of the split.

    Raises:
        DataError: There is no question of the domain, or a domain has fewer than two.
    """
    by_domain: dict[str, list[Question]] = {}
    for question in questions:
        by_domain.setdefault(question.domain, []).append(question)
    if domain not in by_domain:
        raise DataError(f"data.domain={domain}: no question of it; there are: {', '.join(sorted(by_domain)) or 'none'}")
    pool: list[Question] = []
    tests = {}
    for name, members in by_domain.items():
        train, test = _train_test(len(members), test_ratio, seed, name)
        tests[name] = [members[i] for i in test]
        if name == domain:
            pool = [members[i] for i in train]
    return Splits(pool, tests)


def hold_out(splits: Splits, count: int | None, seed: int) -> Splits:
    """The splits with some pool questions held out, drawn at random.

    Args:
        splits: Without held-out questions.
        count: How many; None: where there is no test a tenth of the pool, HELD_AT_MOST at most, else none.
        seed: Of the draw.

    Raises:
        DataError: The pool has not more than `count` questions.
    """
    size = len(splits.pool)
    if count is None:
        count = 0 if splits.tests else min(size // 10, HELD_AT_MOST)
    if count == 0:
        return splits
    if count >= size:
        raise DataError(f"data.holdout={count}: the pool has {size} questions: hold out fewer")
    drawn = set(random.Random(seed).sample(range(size), count))
    pool = [question for i, question in enumerate(splits.pool) if i not in drawn]
    return replace(splits, pool=pool, held=tuple(splits.pool[i] for i in sorted(drawn)))


def _train_test(n: int, test_ratio: float, seed: int, name: str) -> tuple[list[int], list[int]]:
    import datasets

    if n < 2:
        raise DataError(f"domain {name} has {n} question: at least 2 are needed to split off a test set")
    if math.ceil(test_ratio * n) >= n:
        raise DataError(
            f"data.test_ratio={test_ratio:g} of the {n} questions of {name} leaves none for the pool: lower it"
        )
    parts = datasets.Dataset.from_dict({"i": list(range(n))}).train_test_split(test_size=test_ratio, seed=seed)
    return list(parts["train"]["i"]), list(parts["test"]["i"])
