"""A question's options from a cell, in the forms that data sets have them.

    ["x", "y"]                                  labels A, B, … to Z
    {"A": "x", "B": "y"}                        labels of their own; one that is null or empty is no option
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
    value = parsed(cell) if isinstance(cell, str) else cell
    if isinstance(value, list) and value and all(isinstance(item, tuple) and len(item) == 2 for item in value):
        value = dict(value)  # a map column of parquet
    if isinstance(value, Mapping):
        return check_options(place, _of_mapping(place, value))
    if isinstance(value, list | tuple):
        return check_options(place, _of_list(place, value))
    raise DataError(f"{place}: {FORMS}; got {str(cell)[:40]!r}")


def labels_of_columns(columns: Sequence[str]) -> dict[str, str]:
    """Column -> label: its name where all names are single characters, else A, B, …"""
    own = all(len(core(name)) == 1 for name in columns)
    return {name: name if own else letter for name, letter in zip(columns, LETTERS, strict=False)}


def options_of_columns(place: str, columns: Sequence[str], values: Mapping[str, Any]) -> tuple[Option, ...]:
    """One option a column."""
    pairs = [(label, values.get(name)) for name, label in labels_of_columns(columns).items()]
    return check_options(place, [Option(label, as_text(place, value)) for label, value in pairs if not empty(value)])


def options_of_choices(choices: Sequence[str]) -> tuple[Option, ...]:
    """The phrases of `data.choices`, each its own label."""
    return check_options("data.choices", [Option(choice, choice) for choice in choices])


def empty(value: Any) -> bool:
    """Whether a cell holds nothing, or blanks alone."""
    return blank(value) or (isinstance(value, str) and not value.strip())


def as_text(place: str, value: Any) -> str:
    """An option's text as it is written. DataError for what is none."""
    if isinstance(value, str | bool | int) and not empty(value):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(value)
    what = "nothing" if empty(value) else f"a {type(value).__name__}"
    raise DataError(f"{place}: an option holds {what}: give its text, or leave the option out")


def parsed(cell: str) -> Any:
    """What a cell's text writes as JSON, or as Python does; the text itself if it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return cell


def _of_mapping(place: str, value: Mapping[Any, Any]) -> list[Option]:
    texts = next((value[name] for name in TEXTS if isinstance(value.get(name), list)), None)
    labels = next((value[name] for name in LABELS if isinstance(value.get(name), list)), None)
    if texts is None or labels is None:
        return [Option(str(label), as_text(place, text)) for label, text in value.items() if not empty(text)]
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


def check_options(place: str, options: Sequence[Option], fewest: int = 2) -> tuple[Option, ...]:
    """Two options at least, or none, whose labels an answer can distinguish."""
    if 0 < len(options) < fewest:
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
