"""Edu-Feedback (SPEC §2.4): peer comments, with or without explanation; a local file `id,input,label`.

The paper's 1,000 test comments are not public, so a part of the pool is split off for the test.
"""

from __future__ import annotations

from pathlib import Path

from nopsd.config import DataConfig
from nopsd.data.records import AnswerKey, Option, Question
from nopsd.data.rows import Row, read_rows
from nopsd.data.sources import Splits, check_unique, split_by_domain
from nopsd.errors import DataError

DOMAIN = "edu_feedback"
PHRASES = ("With Explanation", "Without Explanation")
ASK = "Does this peer feedback comment come with an explanation?"


def _rows(config: DataConfig, drop: tuple[str, ...]) -> list[Row]:
    if not config.path:
        raise DataError("data.name=edu_feedback has no hub id: set data.path to its file (columns id, input, label)")
    path = Path(config.path)
    if path.is_dir():
        path = next(iter(sorted(path.glob("edu_feedback*"))), path)
    return read_rows(path, drop)


def _question(row: Row) -> Question:
    if "id" not in row.values or "input" not in row.values:
        raise DataError(f"{row.place}: columns `id` and `input` are needed")
    comment = str(row.values["input"] or "").strip()
    return Question(
        uid=f"edu-{row.values['id']}",
        domain=DOMAIN,
        source="edu_feedback",
        question=f"{ASK}\n\n{comment}" if comment else "",
        options=tuple(Option(p, p) for p in PHRASES),
    )


def load_splits(config: DataConfig) -> Splits:
    rows = _rows(config, drop=("label",))
    questions = [_question(row) for row in rows]
    check_unique(questions, [row.place for row in rows])
    return split_by_domain(questions, DOMAIN, config.test_ratio, config.seed)


def load_answers(config: DataConfig) -> AnswerKey:
    return {f"edu-{r.values['id']}": r.values["label"] for r in _rows(config, drop=()) if r.values.get("label")}
