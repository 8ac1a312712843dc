"""Which columns of a user's rows are meant, and a `Question` from them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nopsd.config import DataConfig
from nopsd.data.options import options_of_choices, options_of_columns, parsed, read_options
from nopsd.data.records import Question
from nopsd.data.rows import Row, blank, text_of
from nopsd.errors import DataError

KEYS = ("id_column", "question_column", "context_column", "options_column", "answer_column")
# Columns that hold all options of a question, and columns that hold one each.
ALL_OPTIONS = re.compile(r"(answer[ _-]?)?(options?|choices?|alternatives|candidates|endings)", re.IGNORECASE)
ONE_OPTION = re.compile(
    r"(option|opt|op|choice|sol|solution|alternative|ending|answer|ans|distractor|incorrect[ _-]?answer)"
    r"[ _-]?(\d|[a-j])"
    r"|[A-J1-9]",
    re.IGNORECASE,
)


def check_named(config: DataConfig, rows: Sequence[Row], keys: Sequence[str] = KEYS) -> list[str]:
    """All columns that there are; DataError if a key names another than its default and that is not among them."""
    names = list(dict.fromkeys(name for row in rows for name in [*row.values, *row.removed]))
    given = [(key, getattr(config, key)) for key in keys if getattr(config, key) != getattr(DataConfig(), key)]
    for key, name in [*given, *(("option_columns", name) for name in config.option_columns)]:
        if rows and name is not None and name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            where = rows[0].place.rpartition(":")[0]
            raise DataError(f"{where}: data.{key}={name} names no column; there are: {_listed(names)}{hint}")
    _check_one_role(config, names)
    return names


def _check_one_role(config: DataConfig, names: Sequence[str]) -> None:
    """DataError for a column that two keys name: an answer would be asked, or options asked as the question."""
    keys_of: dict[str, list[str]] = {}
    for key in KEYS[1:]:  # a question's text may be its id
        if (name := getattr(config, key)) in names:
            keys_of.setdefault(name, []).append(key)
    for name in config.option_columns:
        keys_of.setdefault(name, []).append("option_columns")
    if config.id_column == config.answer_column in keys_of:
        keys_of[config.id_column].append("id_column")
    for name, keys in keys_of.items():
        if len(keys) > 1:
            both = " and ".join(f"data.{key}" for key in keys)
            raise DataError(f"column {name} is named by {both}: name another column by one of them, or null")


def check_columns(config: DataConfig, rows: Sequence[Row]) -> None:
    """DataError for a column that is named and isn't there, and for what looks like options and isn't read as such."""
    names = check_named(config, rows)
    if config.options_column is None or config.options_column in names or config.option_columns:
        return
    other = [name for name in names if name not in {getattr(config, key) for key in KEYS}]
    whole = [name for name in other if ALL_OPTIONS.fullmatch(name)]
    single = [name for name in other if ONE_OPTION.fullmatch(name)]
    if whole or len(single) > 1:
        remedy = f"data.options_column={whole[0]}" if whole else f"data.option_columns=[{','.join(single)}]"
        where = rows[0].place.rpartition(":")[0]
        raise DataError(
            f"{where}: {', '.join(whole[:1] or single)} looks like options, and no column is named "
            f"{config.options_column}: set {remedy}, or data.options_column=null for questions without options"
        )


def _listed(names: Iterable[str]) -> str:
    """Columns in one line, whatever their names hold."""
    return " ".join(", ".join(names).split()) or "none"


def question_of(config: DataConfig, uid: str, row: Row) -> Question:
    """The row's question, without its answer."""
    domain = row.values.get("domain")
    options = (
        options_of_columns(row.place, config.option_columns, row.values)
        if config.option_columns
        else read_options(row.place, row.values.get(config.options_column))
        if config.options_column is not None
        else ()
    )
    return Question(
        uid=uid,
        domain=config.domain if blank(domain) else str(domain),
        source="file",
        question=_text(config, row),
        options=options or options_of_choices(config.choices or ()),
    )


def _text(config: DataConfig, row: Row) -> str:
    value = row.values.get(config.question_column)
    turns = value if isinstance(value, list) else _written_chat(value)
    text = text_of(row, config.question_column) if turns is None else _asked(row, config.question_column, turns)
    if not any(character.isprintable() and not character.isspace() for character in text):
        raise DataError(
            f"{row.place}: no text in column `{config.question_column}` (columns: {_listed(row.values)}); "
            "fill it in, or set data.question_column"
        )
    before = [config.instruction, text_of(row, config.context_column) if config.context_column else None]
    return "\n\n".join([*filter(None, before), text])


def _written_chat(value: Any) -> list[Any] | None:
    """A chat in a CSV's cell, as JSON or as Python writes it; None for other text."""
    if not isinstance(value, str) or not value.lstrip().startswith("[") or "role" not in value:
        return None
    turns = parsed(value)
    chat = isinstance(turns, list) and all(isinstance(turn, Mapping) and "role" in turn for turn in turns)
    return turns if chat and turns else None


def is_one_turn(turns: Sequence[Any]) -> bool:
    """Whether a chat is one user turn, alone or behind a system turn."""
    return _roles(turns) in (["user"], ["system", "user"])


def _roles(turns: Sequence[Any]) -> list[Any]:
    return [turn.get("role") if isinstance(turn, Mapping) else None for turn in turns]


def _asked(row: Row, column: str, turns: Sequence[Any]) -> str:
    """The text of a chat: one user turn, behind a system turn's text if there is one."""
    if not is_one_turn(turns):
        shown = ", ".join(str(role) for role in _roles(turns)[:6]) or "nothing"
        raise DataError(
            f"{row.place}: column `{column}` must be text or a chat of one user turn, got {shown}: an answer must not "
            "stand in the question, and longer conversations are to be split"
        )
    texts = [_content(row, column, turn.get("content")) for turn in turns]
    return "\n\n".join(text for text in texts if text.strip())


def _content(row: Row, column: str, content: Any) -> str:
    if isinstance(content, list):  # parts, as the chat API has them
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        if all(isinstance(part, str) for part in parts):
            return "\n".join(map(str, parts))
    if not isinstance(content, str):
        raise DataError(f"{row.place}: column `{column}`: each turn needs text in `content`")
    return content
