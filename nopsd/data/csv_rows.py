"""Rows of CSV, by the standard library's `csv`: separated by comma, semicolon, tab or bar, as the header is.

What `csv` would do silently is refused by line: a quote that is never closed (it would swallow the rows behind it), two
columns of one name (the last wins), rows of another number of fields than the header's.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nopsd.data.text_files import kind_of, read_text
from nopsd.errors import DataError

SEPARATORS = ",;\t|"
_STATED = re.compile(r'"?sep=(.)"?\r?\n')  # Excel's own first line


class CsvRow(NamedTuple):
    """`line`: where the row begins."""

    line: int
    values: dict[str, Any]


def read_csv_rows(path: Path) -> list[CsvRow]:
    """All rows; DataError naming file and line."""
    text = read_text(path)
    stated = _STATED.match(text)
    skipped = stated.end() if stated else 0
    separator = stated[1] if stated else _separator(path, text)
    csv.field_size_limit(sys.maxsize)  # 131,072 characters by default
    reader = csv.reader(io.StringIO(text[skipped:], newline=""), delimiter=separator, strict=True)
    rows = _numbered(path, reader, 1 if stated else 0)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise DataError(f"{path}:1: two columns named {', '.join(twice)}: rename or remove one")
    return [CsvRow(line, _values(f"{path}:{line}", header, fields)) for line, fields in rows]


def _separator(path: Path, text: str) -> str:
    """The one that gives the header most columns; of equals the comma."""
    if kind_of(path) == ".tsv":
        return "\t"
    header = io.StringIO(text[: text.find("\n") + 1] or text, newline="")

    def columns(separator: str) -> int:
        header.seek(0)
        return len(next(csv.reader(header, delimiter=separator), []))

    return max(SEPARATORS, key=columns)


def _numbered(path: Path, reader: Any, before: int) -> Iterator[tuple[int, list[str]]]:
    """(line at which it begins, fields) of each row that isn't blank."""
    while True:
        line = before + reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            what = str(error)
            if before + reader.line_num > line or "end of data" in what:
                what = "a quote that opens in this row is never closed, or text follows its end"
            raise DataError(
                f"{path}:{line}: {what}: close the quote, and write a quote inside of a quoted field twice"
            ) from error
        if fields:
            yield line, fields


def _values(place: str, header: list[str], fields: list[str]) -> dict[str, Any]:
    if len(fields) > len(header):
        raise DataError(f"{place}: more fields than the header names; quote commas inside fields")
    if len(fields) < len(header):
        raise DataError(
            f"{place}: {len(fields)} fields, and the header names {len(header)}: quote line breaks inside of fields, "
            "or fill the row up"
        )
    return {name: field for name, field in zip(header, fields, strict=True) if name}
