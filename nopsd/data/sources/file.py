"""A user's own questions: JSONL, CSV or parquet with a question column; options and answers if there are any.

Without an answer column every question goes into the pool and there is nothing to evaluate on.
With one, a test set is split off by domain (`data.test_ratio`), and only evaluation reads the answers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nopsd.config import DataConfig
from nopsd.data.raw_rows import read_raw_rows
from nopsd.data.records import AnswerKey, Option, Question
from nopsd.data.rows import Row, read_hub, read_rows
from nopsd.data.splits import Splits, check_unique, split_by_domain
from nopsd.errors import DataError

LETTERS = "ABCDEFGHIJ"


def _rows(config: DataConfig, drop: tuple[str, ...] = ()) -> list[Row]:
    if not config.path:
        raise DataError(
            "data.name=file needs data.path: a .jsonl, .csv or .parquet file, a folder of them, or a hub id"
        )
    path = Path(config.path)
    if not path.exists() and config.path.count("/") == 1 and not path.suffix:
        return read_hub(config.path, "train", drop)
    return read_rows(path, drop)


def _options(place: str, value: Any) -> tuple[Option, ...]:
    if value is None or value == "" or value == []:
        return ()
    if isinstance(value, str):  # CSV cells
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise DataError(f"{place}: options must be a JSON list or mapping, got {value[:40]!r}") from error
    if isinstance(value, dict):
        return tuple(Option(str(k), str(v)) for k, v in value.items() if v is not None)
    if isinstance(value, list) and len(value) <= len(LETTERS):
        return tuple(Option(LETTERS[i], str(v)) for i, v in enumerate(value))
    raise DataError(f"{place}: options must be a list of at most {len(LETTERS)} texts, or a mapping label -> text")


def _uid(config: DataConfig, number: int, row: Row) -> str:
    given = row.values.get(config.id_column)
    return str(given) if given not in (None, "") else f"row-{number}"


def _question(config: DataConfig, number: int, row: Row) -> Question:
    text = row.values.get(config.question_column)
    if text is None or not str(text).strip():
        raise DataError(
            f"{row.place}: no text in column `{config.question_column}` (columns: {', '.join(row.values) or 'none'}); "
            "fill it in, or set data.question_column"
        )
    return Question(
        uid=_uid(config, number, row),
        domain=str(row.values.get("domain") or config.domain),
        source="file",
        question=str(text),
        options=_options(row.place, row.values.get(config.options_column)),
    )


def load_splits(config: DataConfig) -> Splits:
    """Pool and tests, without answers; DataError on rows of another form."""
    rows = _rows(config, drop=(config.answer_column,))
    questions = [_question(config, number, row) for number, row in enumerate(rows, 1)]
    check_unique(questions, [row.place for row in rows])
    if not questions:
        return Splits([], {})
    if not any(row.dropped for row in rows):  # nobody has an answer
        pool = [q for q in questions if q.domain == config.domain]
        return Splits(pool, {})
    return split_by_domain(questions, config.domain, config.test_ratio, config.seed)


def load_answers(config: DataConfig) -> AnswerKey:
    """uid -> gold answer."""
    key: AnswerKey = {}
    for number, row in enumerate(_rows(config), 1):
        answer = row.values.get(config.answer_column)
        if answer not in (None, ""):
            key[_uid(config, number, row)] = str(answer)
    return key


def load_lines(config: DataConfig) -> dict[str, str]:
    """uid -> the row as it stands in the file, in file order."""
    return {_uid(config, n, row): row.line for n, row in enumerate(read_raw_rows(config.path or ""), 1)}
