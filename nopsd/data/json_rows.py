"""Rows of JSON: an object a line, or one list of objects, whatever the file's name says.

The standard library's `json` reads them; what it would do silently is refused here by line: a key given twice (it keeps
the last), half a surrogate pair (which no file can hold), nesting without end. A number is kept as it is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nopsd.data.text_files import read_text
from nopsd.errors import DataError

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_BLANK = re.compile(r"[ \t\n\r\ufeff]*")
MOST_DIGITS = 400


class JsonRow(NamedTuple):
    """`text`: the row as it stands, empty if it takes several lines."""

    line: int
    values: dict[str, Any]
    text: str


class WrittenNumber(float):
    """A number whose text is the one that was written: 2.50 stays 2.50."""

    text: str

    def __new__(cls, text: str) -> WrittenNumber:
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text


class _Refused(Exception):  # noqa: N818 - never leaves this file
    """Why valid JSON isn't taken."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Refused(f"the key `{twice}` is given twice: rename or remove one")
    return values


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise _Refused(f"a number of {len(text)} digits: write it as text")
    return int(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=WrittenNumber, parse_int=_whole)


def read_json_rows(path: Path) -> list[JsonRow]:
    """All rows; DataError naming file and line."""
    text = read_text(path)
    start = _after_blank(text, 0)
    return list(_of_list(path, text, start) if text[start : start + 1] == "[" else _of_lines(path, text))


def _of_lines(path: Path, text: str) -> Iterator[JsonRow]:
    # Not splitlines(): it also splits at U+2028 and its like, which JSON leaves bare inside strings.
    lines = text.split("\n" if "\n" in text else "\r")
    for number, line in enumerate(lines, 1):
        line = line.strip(" \t\r\ufeff")
        if not line:
            continue
        values, stop = _decoded(f"{path}:{number}", line, 0)
        if stop < len(line):
            raise DataError(f"{path}:{number}: not JSON (more behind the object, column {stop + 1}): one object a line")
        yield JsonRow(number, _object(f"{path}:{number}", values), line)


def _of_list(path: Path, text: str, start: int) -> Iterator[JsonRow]:
    line, counted, at = 1, 0, _after_blank(text, start + 1)
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        place = f"{path}:{line}"
        values, stop = _decoded(place, text, at)
        whole = text[at:stop]
        yield JsonRow(line, _object(place, values), "" if "\n" in whole else whole)
        at = _after_blank(text, stop)
        comma = text[at : at + 1] == ","
        at = _after_blank(text, at + 1) if comma else at
        if comma == (text[at : at + 1] == "]"):
            raise DataError(f"{place}: not JSON (no single comma, or no ], behind this row): fix the list")
    if text[_after_blank(text, at + 1) :]:
        raise DataError(f"{path}: more behind the end of its list: one list, or one object a line")


def _decoded(place: str, text: str, at: int) -> tuple[Any, int]:
    try:
        values, stop = _DECODER.raw_decode(text, at)
        if _SURROGATE.search(text, at, stop):
            json.dumps(values, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON ({error.msg}, column {error.colno}); fix or remove the line") from error
    except _Refused as error:
        raise DataError(f"{place}: {error}") from error
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: half a surrogate pair (\\ud800 to \\udfff alone), which is no text: remove it"
        ) from error
    except RecursionError as error:
        raise DataError(f"{place}: nested too deeply: flatten the row") from error
    return values, stop


def _object(place: str, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise DataError(f"{place}: a JSON object is needed, got {type(values).__name__}")
    return values


def _after_blank(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    assert match is not None
    return match.end()
