"""Edu-Feedback: peer comments, with or without explanation; a local file `id,input,label`.

The paper's 1,000 test comments are not public. With a file of them beside the pool's (data.path a folder with
edu_feedback_pool* and edu_feedback_test*) the pool is whole, 1,799 as in the paper; else a part of it is
split off for the test.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nopsd.config import DataConfig
from nopsd.data.records import AnswerKey, Option, Question
from nopsd.data.rows import Row, read_rows, text_of
from nopsd.data.splits import Splits, check_unique, split_by_domain
from nopsd.errors import DataError

DOMAIN = "edu_feedback"
PHRASES = ("With Explanation", "Without Explanation")
NOTE = (
    "The paper's 1,000 test comments are not public: {tests} of the {rows} rows were split off for the test and {pool} "
    "are the pool, so that Edu's numbers are of other questions than the paper's."
)
ASK = "Does this peer feedback comment come with an explanation?"


def _files(config: DataConfig) -> tuple[Path, Path | None]:
    """The pool's file, and the test's if there is one of its own."""
    if not config.path:
        raise DataError("data.name=edu_feedback has no hub id: set data.path to its file (columns id, input, label)")
    path = Path(config.path)
    if not path.is_dir():
        return path, None
    test = next(iter(sorted(path.glob("edu_feedback_test*"))), None)
    pool = next((file for file in sorted(path.glob("edu_feedback*")) if file != test), path)
    return pool, test


def _rows(config: DataConfig, drop: tuple[str, ...]) -> tuple[list[Row], list[Row]]:
    """Rows of the pool's file, and of the test's."""
    pool, test = _files(config)
    return read_rows(pool, drop), read_rows(test, drop) if test else []


def _uid(row: Row, test: bool) -> str:
    return f"edu-test-{row.values['id']}" if test else f"edu-{row.values['id']}"


def _question(row: Row, test: bool = False) -> Question:
    if "id" not in row.values or "input" not in row.values:
        raise DataError(f"{row.place}: columns `id` and `input` are needed")
    comment = text_of(row, "input").strip()
    return Question(
        uid=_uid(row, test),
        domain=DOMAIN,
        source="edu_feedback",
        question=f"{ASK}\n\n{comment}" if comment else "",
        options=tuple(Option(p, p) for p in PHRASES),
    )


def load_splits(config: DataConfig) -> Splits:
    """Pool and tests, without answers; DataError on rows of another form."""
    if config.domain != DOMAIN:
        raise DataError(f"data.domain={config.domain}: data.name=edu_feedback has one domain, use {DOMAIN}")
    rows, test_rows = _rows(config, drop=("label",))
    questions = [_question(row) for row in rows]
    tests = [_question(row, test=True) for row in test_rows]
    check_unique([*questions, *tests], [row.place for row in (*rows, *test_rows)])
    if tests:
        return Splits(questions, {DOMAIN: tests})
    splits = split_by_domain(questions, DOMAIN, config.test_ratio, config.seed)
    return replace(splits, note=NOTE.format(tests=len(splits.tests[DOMAIN]), rows=len(rows), pool=len(splits.pool)))


def load_answers(config: DataConfig) -> AnswerKey:
    """uid -> gold answer."""
    pool, tests = _rows(config, drop=())
    named = [*((_uid(row, False), row) for row in pool), *((_uid(row, True), row) for row in tests)]
    return {uid: row.values["label"] for uid, row in named if row.values.get("label")}
