"""Settings as people mistype them: for every key of the schema, what is written and what must come of it.

In: the schema. Out: (key, text, expected), `expected` being REFUSED, or the value that the key must have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nopsd.config.schema import Key, all_keys

REFUSED = object()
NO_NUMBERS = ("abc", "nan", "1,5", "--1", "[1]", "{a: 1}", "1 2", "0x", "true", "1e", "٣x", "\u00bd", "1\x00")
NO_WHOLE_NUMBERS = (*NO_NUMBERS, "1.5", "inf", "9" * 500)
NO_FLAGS = ("2", "maybe", "[true]", "nein", "-1", "{}", "truefalse")
NO_LISTS = ("{a: b}", "[a", "]", "{", "[[a]]", "[{a: 1}]")
TEXTS = ("no", "0123", "12:30", "a # b", "@q", "${USER}", "1e3", "~x", "=x", "Ω–", "null_", "%s", "{x}", "a: b", "on")


def settings_inputs() -> Iterator[tuple[str, str, Any]]:
    """All of them, in the schema's order."""
    for key in all_keys():
        yield from _of(key)


def _of(key: Key) -> Iterator[tuple[str, str, Any]]:
    kind = key.type.removesuffix(" or null")
    refused = {"int": NO_WHOLE_NUMBERS, "float": (*NO_NUMBERS, "inf", "-inf"), "bool": NO_FLAGS}.get(kind, ())
    if key.is_list:
        refused = NO_LISTS
    for text in refused:
        yield key.name, text, REFUSED
    if not key.optional:
        yield key.name, "null", REFUSED
    if key.path and not key.optional:
        yield from ((key.name, text, REFUSED) for text in ("", "' '"))
    if key.is_number and not key.is_list:
        yield from _beyond(key, kind)
    if kind == "str" and key.choices and not key.entry_points:
        yield from ((key.name, text, REFUSED) for text in ("nonesuch", "[a]", "Ω", f"{key.choices[0]} x"))
    if key.name in ("data.domain", "data.question_column", "model.revision"):
        yield from ((key.name, text, text) for text in TEXTS)


def _beyond(key: Key, kind: str) -> Iterator[tuple[str, str, Any]]:
    step = 1 if kind == "int" else 1e-6
    for bound, sign in ((key.ge, -1), (key.gt, 0), (key.le, 1), (key.lt, 0)):
        if abs(bound) < 1e30:
            value = bound + sign * step
            yield key.name, str(int(value) if kind == "int" else value), REFUSED
