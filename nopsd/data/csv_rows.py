"""Rows of CSV, by the standard library's `csv`: separated by comma, semicolon, tab or bar, as the header is.

What `csv` would do silently is refused by line: a quote that is never closed (it would swallow the rows behind it) or
is closed by another row's; two columns of one name (the last wins); rows of another number of fields than the header's.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from nopsd.data.text_files import kind_of, read_text
from nopsd.errors import DataError

SEPARATORS = ",;\t|"
_CUT = re.compile(r"[(\[{][^)\]}]*$|^[^(\[{]*[)\]}]")  # a bracket that isn't closed, or wasn't opened
_QUOTED_LATE = re.compile(r'[ \t]+"[^"]*"\s*')
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
    lines = list(io.StringIO(text[skipped:], newline=""))
    reader = csv.reader(lines, delimiter=separator, strict=True)
    rows = _numbered(path, reader, 1 if stated else 0)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise DataError(f"{path}:1: two columns named {', '.join(twice)}: rename or remove one")
    read = [CsvRow(line, _values(f"{path}:{line}", header, fields)) for line, fields in rows]
    for row, after in pairwise([*(row.line for row in read), len(lines) + bool(stated) + 1]):
        _check_quotes(path, row, lines[row - bool(stated) - 1 : after - bool(stated) - 1], separator, len(header))
    return read


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


def _check_quotes(path: Path, first: int, lines: Sequence[str], separator: str, columns: int) -> None:
    """DataError if each line of a row is a row of its own, once the quotes that join them are taken for text."""
    lines = [line for line in lines if line.strip()]
    if len(lines) > 1 and all(_is_row(line.rstrip("\r\n").split(separator), columns) for line in lines):
        raise DataError(
            f"{path}:{first}: a quote joins this row to the {len(lines) - 1} behind it, each of which is a row of its "
            "own: remove the quote here and the one that closes it, or write the file as JSONL if one row is meant"
        )


def _is_row(fields: list[str], columns: int) -> bool:
    """Whether these are fields and not the parts of a sentence, a number or an expression: "so, it", 1,000, f(a,b)."""
    prose = any(field[:1].isspace() or _CUT.search(field) for field in fields)
    number = any(a[-1:].isdigit() and b[:1].isdigit() for a, b in pairwise(fields))
    return columns > 1 and len(fields) == columns and not prose and not number


def _values(place: str, header: list[str], fields: list[str]) -> dict[str, Any]:
    if len(fields) > len(header):
        raise DataError(f"{place}: more fields than the header names; quote commas inside fields")
    if len(fields) < len(header):
        raise DataError(
            f"{place}: {len(fields)} fields, and the header names {len(header)}: quote line breaks inside of fields, "
            "or fill the row up"
        )
    if any(_QUOTED_LATE.fullmatch(field) for field in fields):
        raise DataError(f"{place}: a blank stands before a quote, which then is text: remove the blank")
    return {name: field for name, field in zip(header, fields, strict=True) if name}
