"""Rows of local files (JSONL, JSON, CSV, parquet; `.gz` too) or of a hub data set, each with its place.

A place ("pool.jsonl:12") goes into every error about a row. Columns named in `drop` are removed as
rows are read: that is how answer columns never reach anything but evaluation. Only which of them were filled is kept.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nopsd.errors import DataError

SUFFIXES = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class Row:
    """One row: where it stands and its columns.

    `dropped`: names of removed columns that were filled. `line`: the row's text in a JSONL file, without its line end;
    empty where columns may have been removed.
    """

    place: str
    values: dict[str, Any]
    dropped: frozenset[str] = frozenset()
    line: str = ""


def read_rows(path: Path, drop: Collection[str] = ()) -> list[Row]:
    """All rows of a file, or of every known file of a folder in order of name. Raises DataError."""
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if _kind(p) in SUFFIXES)
        if not files:
            raise DataError(f"{path}: no {', '.join(SUFFIXES)} file in this folder")
        return [row for file in files for row in read_rows(file, drop)]
    if not path.is_file():
        raise DataError(f"{path} does not exist: set data.path to a file, a folder or a hub id")
    kind = _kind(path)
    if kind not in SUFFIXES:
        raise DataError(f"{path}: unknown kind of file; use one of {', '.join(SUFFIXES)} (each may be .gz)")
    reader = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}[kind]
    return [_without(row, drop) for row in reader(path)] if drop else list(reader(path))


def read_hub(name: str, split: str, drop: Collection[str] = ()) -> list[Row]:
    """All rows of a hub data set's split. Raises DataError if the hub or the data set can't be reached."""
    import datasets

    try:
        table = datasets.load_dataset(name, split=split)
    except Exception as error:  # the hub client raises a dozen unrelated classes
        raise DataError(
            f"hub data set {name} can't be loaded ({type(error).__name__}: {str(error).splitlines()[0][:120]}): "
            "check the name and the network, or set data.path to a local copy"
        ) from error
    return [_without(Row(f"{name}[{split}]:{i + 1}", dict(values)), drop) for i, values in enumerate(table)]


def _without(row: Row, drop: Collection[str]) -> Row:
    """The row without these columns."""
    filled = frozenset(name for name in drop if row.values.get(name) not in (None, ""))
    return Row(row.place, {k: v for k, v in row.values.items() if k not in drop}, filled)


def _kind(path: Path) -> str:
    return path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix


def _open_text(path: Path) -> io.TextIOBase:
    opener = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8", newline="")


def _jsonl(path: Path) -> Iterator[Row]:
    with _open_text(path) as file:
        for number, line in enumerate(_lines(file, path), 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path}:{number}: not JSON ({error.msg}, column {error.colno}); fix or remove the line"
                ) from error
            if not isinstance(values, dict):
                raise DataError(f"{path}:{number}: a JSON object is needed, got {type(values).__name__}")
            yield Row(f"{path}:{number}", values, line=line.strip())


def _lines(file: io.TextIOBase, path: Path) -> Iterator[str]:
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}): re-encode the file") from error


def _csv(path: Path) -> Iterator[Row]:
    with _open_text(path) as file:
        reader = csv.DictReader(_lines(file, path))
        for values in reader:
            if None in values:
                raise DataError(
                    f"{path}:{reader.line_num}: more fields than the header names; quote commas inside fields"
                )
            yield Row(f"{path}:{reader.line_num}", dict(values))


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise DataError(f"{path}: not readable as parquet ({str(error).splitlines()[0]})") from error
    for number, values in enumerate(table.to_pylist(), 1):
        yield Row(f"{path}:row {number}", values)
