"""Instruction-tuning data with given responses: what NAIT and other selectors of such data choose from.

A row is `{instruction, input?, output}` or `{"messages": [user turn, assistant turn]}`, in JSONL, a JSON list
(Alpaca's form; both also `.gz`), CSV, parquet, a folder of them (no JSON lists), or a hub id. The instruction stands
in column `data.question_column` where a row has it, else in `instruction`; `input`, if any, follows it after a blank
line; the response stands in `data.response_column` (default `output`). The id is `data.id_column`,
or the row's number. Every row goes into the pool, under the name `data.domain`: no options, no answers, no tests.

The response is kept apart from the `Question`, as a rollout would be: `Splits.responses`. One that is empty (stock
Alpaca has some) leaves nothing to score, so that its row is never chosen.
"""

from __future__ import annotations

from typing import Any

from nopsd.config import DataConfig
from nopsd.data.columns import check_named
from nopsd.data.raw_rows import read_raw_rows
from nopsd.data.records import AnswerKey, Question
from nopsd.data.rows import Row, blank, text_of
from nopsd.data.splits import Splits, check_unique
from nopsd.errors import DataError

INSTRUCTION, INPUT, MESSAGES = "instruction", "input", "messages"


def _rows(config: DataConfig) -> list[Row]:
    if not config.path:
        raise DataError(
            "data.name=instructions needs data.path: a .jsonl or .json file (each may be .gz), a folder of them, "
            "or a hub id"
        )
    return read_raw_rows(config.path, config.split, config.config)


def _uid(config: DataConfig, number: int, row: Row) -> str:
    given = row.values.get(config.id_column)
    return f"row-{number}" if blank(given) else str(given)


def _turns(config: DataConfig, row: Row) -> tuple[str, str]:
    """(prompt, response) of a row; DataError naming its place and what is missing."""
    if row.values.get(MESSAGES) is not None:
        return _messages(row, row.values[MESSAGES])
    column = config.question_column if config.question_column in row.values else INSTRUCTION
    columns = ", ".join(row.values) or "none"
    instruction = row.values.get(column)
    if not isinstance(instruction, str) or not instruction.strip():
        raise DataError(
            f"{row.place}: no text in column `{column}` (columns: {columns}); fill it in, or set data.question_column"
        )
    response = row.values.get(config.response_column, 0)
    if not isinstance(response, str | None):
        raise DataError(
            f"{row.place}: no text in column `{config.response_column}` (columns: {columns}); "
            "fill it in, or set data.response_column"
        )
    further = text_of(row, INPUT)
    return (f"{instruction}\n\n{further}" if further.strip() else instruction), response or ""


def _messages(row: Row, turns: Any) -> tuple[str, str]:
    roles = [t.get("role") if isinstance(t, dict) else None for t in turns] if isinstance(turns, list) else []
    if roles != ["user", "assistant"]:
        said = ", ".join(map(str, roles)) or type(turns).__name__
        raise DataError(
            f"{row.place}: `{MESSAGES}` must be one user turn and one assistant turn, got {said}; "
            "split longer conversations into such rows, or remove them"
        )
    prompt, response = (turn.get("content") for turn in turns)
    if not isinstance(prompt, str) or not prompt.strip() or not isinstance(response, str):
        raise DataError(f"{row.place}: each turn of `{MESSAGES}` needs text in `content`")
    return prompt, response


def load_splits(config: DataConfig) -> Splits:
    """Pool and tests, without answers; DataError on rows of another form."""
    """All rows as the pool, with their responses; there is no test."""
    rows = _rows(config)
    check_named(config, rows, ("id_column", "question_column"))
    uids = [_uid(config, n, row) for n, row in enumerate(rows, 1)]
    turns = [_turns(config, row) for row in rows]
    questions = [Question(uid, config.domain, "instructions", turn[0]) for uid, turn in zip(uids, turns, strict=True)]
    check_unique(questions, [row.place for row in rows])
    responses = {uid: turn[1] for uid, turn in zip(uids, turns, strict=True)}
    return Splits(questions, {}, responses=responses)


def load_answers(config: DataConfig) -> AnswerKey:
    """uid -> gold answer."""
    return {}


def load_lines(config: DataConfig) -> dict[str, str]:
    """uid -> the row as it stands in the file, in file order."""
    return {_uid(config, n, row): row.line for n, row in enumerate(_rows(config), 1)}
