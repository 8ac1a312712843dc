"""A question's options from a cell, in the forms that data sets have them.

    ["x", "y"]                                  labels A, B, … to Z
    {"A": "x", "B": "y"}                        labels of their own; one that is null is no option
    {"text": ["x", "y"], "label": ["A", "B"]}   ARC's and CommonsenseQA's
    [{"label": "A", "text": "x"}, …]            the same by option
    x | y in columns of their own               data.option_columns; an empty cell is no option

A CSV's cell holds one of these as JSON, or as Python writes it.
"""

from __future__ import annotations

import ast
import json
import math
import string
from collections.abc import Mapping, Sequence
from typing import Any

from nopsd.data.labels import core
from nopsd.data.records import Option
from nopsd.data.rows import blank
from nopsd.errors import DataError

LETTERS = string.ascii_uppercase
TEXTS, LABELS = ("text", "texts", "content", "value"), ("label", "labels", "key", "id")
FORMS = "options must be a list of 2 to 26 texts, a mapping label -> text, or {text: [...], label: [...]}"


def read_options(place: str, cell: Any) -> tuple[Option, ...]:
    """The options of a cell; none if it is empty. DataError for another form, by place."""
    if blank(cell) or cell in ([], {}):
        return ()
    value = _parsed(place, cell) if isinstance(cell, str) else cell
    if isinstance(value, list) and value and all(isinstance(item, tuple) and len(item) == 2 for item in value):
        value = dict(value)  # a map column of parquet
    if isinstance(value, Mapping):
        return _checked(place, _of_mapping(place, value))
    if isinstance(value, list | tuple):
        return _checked(place, _of_list(place, value))
    raise DataError(f"{place}: {FORMS}; got {str(cell)[:40]!r}")


def options_of_columns(place: str, columns: Sequence[str], values: Mapping[str, Any]) -> tuple[Option, ...]:
    """One option a column: its name is the label where all names are single characters, else A, B, …"""
    own = all(len(core(name)) == 1 for name in columns)
    labels = list(columns) if own else LETTERS[: len(columns)]
    pairs = [(label, values.get(name)) for label, name in zip(labels, columns, strict=True)]
    return _checked(place, [Option(label, as_text(place, value)) for label, value in pairs if not blank(value)])


def as_text(place: str, value: Any) -> str:
    """An option's text as it is written. DataError for what is none."""
    if isinstance(value, str | bool | int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(value)
    what = "nothing" if blank(value) else f"a {type(value).__name__}"
    raise DataError(f"{place}: an option holds {what}: give its text, or leave the option out")


def _parsed(place: str, cell: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    raise DataError(f"{place}: {FORMS}; got {cell[:40]!r}")


def _of_mapping(place: str, value: Mapping[Any, Any]) -> list[Option]:
    texts = next((value[name] for name in TEXTS if isinstance(value.get(name), list)), None)
    labels = next((value[name] for name in LABELS if isinstance(value.get(name), list)), None)
    if texts is None or labels is None:
        return [Option(str(label), as_text(place, text)) for label, text in value.items() if text is not None]
    if len(texts) != len(labels):
        raise DataError(f"{place}: {len(texts)} option texts for {len(labels)} labels: give one label a text")
    return [Option(as_text(place, label), as_text(place, text)) for label, text in zip(labels, texts, strict=True)]


def _of_list(place: str, value: Sequence[Any]) -> list[Option]:
    if len(value) > len(LETTERS):
        raise DataError(f"{place}: {len(value)} options: {FORMS}")
    options = []
    for letter, item in zip(LETTERS, value, strict=False):
        label: Any = letter
        if isinstance(item, Mapping):
            label = next((item[name] for name in LABELS if not blank(item.get(name))), letter)
            item = next((item[name] for name in TEXTS if name in item), item)
        options.append(Option(as_text(place, label), as_text(place, item)))
    return options


def _checked(place: str, options: Sequence[Option]) -> tuple[Option, ...]:
    """Two options at least, whose labels an answer can distinguish."""
    if len(options) == 1:
        raise DataError(f"{place}: one option alone ({options[0].text[:40]!r}): give two or more, or none")
    seen: dict[str, str] = {}
    for option in options:
        read = core(option.label).casefold()
        if not option.label.strip():
            raise DataError(f"{place}: an option without a label ({option.text[:40]!r}): name it")
        if read in seen:
            raise DataError(
                f"{place}: an answer can't distinguish the labels {seen[read]!r} and {option.label!r}: rename one"
            )
        seen[read] = option.label
    return tuple(options)
