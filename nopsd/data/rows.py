"""Rows of local files (JSONL, JSON, CSV, TSV, parquet; `.gz` too) or of a hub data set, each with its place.

A place ("pool.jsonl:12") goes into every error about a row. Columns named in `drop` are removed as
rows are read: that is how answer columns never reach anything but evaluation. Only which of them were filled is kept.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from nopsd.data.csv_rows import read_csv_rows
from nopsd.data.json_rows import read_json_rows
from nopsd.data.text_files import kind_of
from nopsd.errors import DataError

IN_FOLDERS = (".jsonl", ".csv", ".tsv", ".parquet")  # what a folder's files of other kinds are left for
SUFFIXES = (*IN_FOLDERS, ".json")


@dataclass(frozen=True)
class Row:
    """One row: where it stands and its columns.

    `dropped`: names of removed columns that were filled. `line`: the row's text in a JSON file, without its line end;
    empty where columns may have been removed. `removed`: names of removed columns.
    """

    place: str
    values: dict[str, Any]
    dropped: frozenset[str] = frozenset()
    line: str = ""
    removed: frozenset[str] = frozenset()


def read_rows(path: Path, drop: Collection[str] = ()) -> list[Row]:
    """All rows of a file, or of every known file of a folder in order of name. Raises DataError."""
    return [row for file in files_of(path) for row in read_file(file, drop)]


def files_of(path: Path) -> list[Path]:
    """The file itself, or a folder's files that hold rows, in order of name."""
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if kind_of(p) in IN_FOLDERS and p.is_file() and p.name[0] != ".")
        if not files:
            raise DataError(f"{path}: no {', '.join(IN_FOLDERS)} file in this folder")
        return files
    if not path.is_file():
        raise DataError(f"{path} does not exist: set data.path to a file, a folder or a hub id")
    return [path]


def read_file(path: Path, drop: Collection[str] = ()) -> list[Row]:
    """All rows of one file."""
    kind = kind_of(path)
    if kind not in SUFFIXES:
        raise DataError(f"{path}: unknown kind of file; use one of {', '.join(SUFFIXES)} (each may be .gz)")
    reader = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet}.get(kind, _json)
    return [_without(row, drop) for row in reader(path)] if drop else list(reader(path))


def read_hub(name: str, split: str, drop: Collection[str] = (), config: str | None = None) -> list[Row]:
    """All rows of a hub data set's split.

    Args:
        name: Hub id.
        split: Of it.
        drop: Columns that are removed as rows are read, such as answers.
        config: The data set's configuration, if it has several.

    Raises:
        DataError: The hub or the data set can't be reached.
    """
    import datasets

    try:
        table = datasets.load_dataset(*(name, config) if config else (name,), split=split)
    except Exception as error:  # the hub client raises a dozen unrelated classes
        raise DataError(
            f"hub data set {name} can't be loaded ({type(error).__name__}: {str(error).splitlines()[0][:120]}): "
            "check the name, data.config, data.split and the network, or set data.path to a local copy"
        ) from error
    place = f"{name}[{split}]"
    return [_without(_row(f"{place}:{i + 1}", dict(values)), drop) for i, values in enumerate(table)]


def blank(value: Any) -> bool:
    """Whether a cell holds nothing: null, NaN (a null of pandas), or empty text."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def text_of(row: Row, name: str) -> str:
    """A cell's text, empty if it holds nothing. DataError if it holds something else than text or a number."""
    value = row.values.get(name)
    if blank(value):
        return ""
    if not isinstance(value, str | int | float | date) or isinstance(value, bool) or value in (math.inf, -math.inf):
        raise DataError(f"{row.place}: column `{name}` holds a {type(value).__name__}: text is needed")
    return str(value)


def _without(row: Row, drop: Collection[str]) -> Row:
    """The row without these columns."""
    filled = frozenset(name for name in drop if not blank(row.values.get(name)))
    values = {name: value for name, value in row.values.items() if name not in drop}
    return Row(row.place, values, filled, removed=frozenset(name for name in drop if name in row.values))


def _json(path: Path) -> Iterator[Row]:
    for line, values, text in read_json_rows(path):
        yield Row(f"{path}:{line}", values, line=text)


def _csv(path: Path) -> Iterator[Row]:
    for line, values in read_csv_rows(path):
        yield Row(f"{path}:{line}", values)


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(path).names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"{path}: two columns named {', '.join(twice)}: rename or remove one")
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: not readable as parquet ({str(error).splitlines()[0]})") from error
    for number, values in enumerate(table.to_pylist(), 1):
        yield _row(f"{path}:row {number}", values)


def _row(place: str, values: dict[str, Any]) -> Row:
    """With text for bytes."""
    try:
        return Row(place, {name: _as_text(value) for name, value in values.items()})
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: bytes that are not UTF-8 ({error.reason}): store the column as text") from error


def _as_text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    return {name: _as_text(item) for name, item in value.items()} if isinstance(value, dict) else value
