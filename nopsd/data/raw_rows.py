"""Rows with the text they were read from, so that a chosen part of a file can be written as it stood.

In: whatever `nopsd.data.rows` reads (a folder of its files, too), or a hub id. Out: rows with their place and one line
of JSON each: the original text where that was one line of JSON, else the row's values written as one.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from nopsd.data.rows import Row, read_hub, read_rows


def read_raw_rows(path: str, split: str = "train", config: str | None = None) -> list[Row]:
    """All rows in file order, files of a folder by name. Raises DataError naming file and line."""
    location = Path(path)
    if not location.exists() and path.count("/") == 1 and not location.suffix:
        return [_written(row) for row in read_hub(path, split, config=config)]
    return [row if row.line else _written(row) for row in read_rows(location)]


def _written(row: Row) -> Row:
    return replace(row, line=json.dumps(row.values, ensure_ascii=False, default=str))
