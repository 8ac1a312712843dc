"""Where questions come from: one small module a data set, each with `load_splits` and `load_answers`.

`load_splits` is what stages before evaluation use; it keeps no answer column.
`load_answer_key` is for evaluation alone. Sources of a user's own rows also have `load_lines`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from types import ModuleType

from nopsd.config import DataConfig
from nopsd.data.records import AnswerKey, Question
from nopsd.errors import DataError

# Rows of the published sets, of SciKnowEval those of type mcq-4-choices (SPEC §2.1, 2.3, 2.4).
PUBLISHED = {
    "sciknoweval": {"Biology": 3935, "Chemistry": 6263, "Material": 4956, "Physics": 3316},
    "mmlu_pro": {"mmlu_pro": 12032},
    "edu_feedback": {"edu_feedback": 1799},
}


ELSEWHERE = {"lab": "nopsd.lab.source"}  # a source that is not a module of this package


@dataclass(frozen=True)
class Splits:
    """The pool of one domain, and test questions by domain (the pool's own among them, if it has any)."""

    pool: list[Question]
    tests: dict[str, list[Question]]
    note: str = ""  # where they aren't the published splits: a sentence for the report
    responses: dict[str, str] | None = None  # uid -> given response, of a source that brings them


def _source(config: DataConfig) -> ModuleType:
    return import_module(ELSEWHERE.get(config.name, f"nopsd.data.sources.{config.name}"))


def load_splits(config: DataConfig) -> Splits:
    """Pool and test questions, checked; no answer is read. Raises DataError."""
    splits: Splits = _source(config).load_splits(config)
    pool = splits.pool[: config.pool_limit]
    if not pool:
        raise DataError(
            f"the pool of data.name={config.name}, data.domain={config.domain} is empty: check data.path, data.domain, "
            "data.types and data.levels"
        )
    return replace(splits, pool=pool)


def load_answer_key(config: DataConfig) -> AnswerKey:
    """uid -> gold answer of every test question that has one. For evaluation only."""
    return _source(config).load_answers(config)


def load_lines(config: DataConfig) -> dict[str, str] | None:
    """uid -> the row as one line of JSON, as it stands in the user's own file, in file order; None if there is none.
    Rows come whole, whatever their columns are: for a copy of them alone."""
    source = _source(config)
    return source.load_lines(config) if hasattr(source, "load_lines") else None


def hub_id(config: DataConfig) -> str | None:
    """The hub data set that `load_splits` would ask for; None if it reads local files, or makes its rows itself."""
    if config.path and Path(config.path).exists():
        return None
    own: str | None = getattr(_source(config), "HUB_ID", None)
    given = config.path if config.path and config.path.count("/") == 1 and not Path(config.path).suffix else None
    return given if config.name in ("file", "instructions") else own and (config.path or own)


def published_sizes(config: DataConfig) -> tuple[int, dict[str, int]] | None:
    """Sizes of the pool, and of each domain's test, as the published rows split; None for a user's own data, or other
    rows of a published set."""
    rows = PUBLISHED.get(config.name, {})
    whole = config.types == DataConfig().types and not config.levels
    if config.domain not in rows or not whole or config.path:
        return None
    tests = {domain: math.ceil(Fraction(str(config.test_ratio)) * number) for domain, number in rows.items()}
    return rows[config.domain] - tests[config.domain], tests


def check_unique(questions: list[Question], places: list[str]) -> None:
    """Refuse two equal ids and questions without text, naming their places."""
    seen: dict[str, str] = {}
    for question, place in zip(questions, places, strict=True):
        if not question.question.strip():
            raise DataError(f"{place}: question {question.uid} has no text")
        if question.uid in seen:
            raise DataError(f"{place}: id {question.uid} was used before, at {seen[question.uid]}; ids must be unique")
        seen[question.uid] = place


def split_by_domain(questions: list[Question], domain: str, test_ratio: float, seed: int) -> Splits:
    """Each domain split as `datasets.Dataset.train_test_split` does (SPEC §2.2): the paper's exact sizes."""
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


def _train_test(n: int, test_ratio: float, seed: int, name: str) -> tuple[list[int], list[int]]:
    import datasets

    if n < 2:
        raise DataError(f"domain {name} has {n} question: at least 2 are needed to split off a test set")
    parts = datasets.Dataset.from_dict({"i": list(range(n))}).train_test_split(test_size=test_ratio, seed=seed)
    return list(parts["train"]["i"]), list(parts["test"]["i"])
