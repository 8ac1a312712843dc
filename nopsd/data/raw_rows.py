"""Rows with the text they were read from, so that a chosen part of a file can be written as it stood.

In: a `.jsonl` or `.json` file (a JSON list of objects, as Alpaca is shipped; each may be `.gz`), whatever else
`nopsd.data.rows` reads (a folder of its files, too), or a hub id. Out: rows with their place and one line of JSON each:
the original text where that was one line of JSON, else the row's values written as one.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nopsd.data.rows import SUFFIXES, Row, read_hub, read_rows
from nopsd.errors import DataError

_BLANK = re.compile(r"[ \t\n\r]*")


def read_raw_rows(path: str) -> list[Row]:
    """All rows in file order, files of a folder by name. Raises DataError naming file and line."""
    location = Path(path)
    if not location.exists() and path.count("/") == 1 and not location.suffix:
        return [_written(row) for row in read_hub(path, "train")]
    if not location.is_dir():
        return _file(location)
    files = sorted(p for p in location.iterdir() if _kind(p) in SUFFIXES)  # the same as `read_rows` takes
    if not files:
        raise DataError(f"{path}: no {', '.join(SUFFIXES)} file in this folder")
    return [row for file in files for row in _file(file)]


def _file(path: Path) -> list[Row]:
    if _kind(path) == ".json" and path.is_file():
        return list(_json_list(path))
    rows = read_rows(path)
    return rows if _kind(path) == ".jsonl" else [_written(row) for row in rows]


def _kind(path: Path) -> str:
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def _open(path: Path) -> Any:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8", newline="")


def _written(row: Row) -> Row:
    return replace(row, line=json.dumps(row.values, ensure_ascii=False, default=str))


def _json_list(path: Path) -> Iterator[Row]:
    try:
        with _open(path) as file:
            text = file.read()
        whole = json.loads(text)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}): re-encode the file") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON ({error.msg}, column {error.colno})") from error
    if not isinstance(whole, list):
        raise DataError(f"{path}: a JSON list of objects is needed, got {type(whole).__name__}; or use .jsonl")
    line, counted = 1, 0
    for start, stop, values in _elements(text):
        line, counted = line + text.count("\n", counted, start), start
        if not isinstance(values, dict):
            raise DataError(f"{path}:{line}: a JSON object is needed, got {type(values).__name__}")
        row = Row(f"{path}:{line}", values, line=text[start:stop])
        yield row if "\n" not in row.line else _written(row)


def _elements(text: str) -> Iterator[tuple[int, int, Any]]:
    """(start, stop, value) of each element of a JSON list that is known to be whole."""
    decode = json.JSONDecoder().raw_decode
    at = _after_blank(text, text.index("[") + 1)
    while text[at] != "]":
        value, stop = decode(text, at)
        yield at, stop, value
        at = _after_blank(text, stop)
        if text[at] == ",":
            at = _after_blank(text, at + 1)


def _after_blank(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    assert match is not None
    return match.end()
