"""Reading and writing of small files: atomic writes, JSON and JSON lines, SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nopsd.errors import ArtefactError

AGAIN = "bring it back from a copy, or make it afresh with --redo STAGE (which deletes what that stage has made)"
LONGEST_NAME = 180  # of `file_name`, in bytes


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file so that no reader ever sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:  # of a full disk, or an interrupt
        part.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Parsed JSON; ArtefactError if the file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtefactError(f"{path} is missing: run the stage that makes it") from error
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} is damaged ({error}): {AGAIN}") from error


def write_jsonl(path: Path, rows: list[Any]) -> None:
    """Write one JSON value a line."""
    write_atomic(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))


def read_jsonl(path: Path) -> list[Any]:
    """Parsed JSON of each line; ArtefactError if the file is missing or damaged."""
    try:
        # Not splitlines(): it also splits at U+2028 and its like, which JSON leaves bare inside strings.
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except FileNotFoundError as error:
        raise ArtefactError(f"{path} is missing: run the stage that makes it") from error
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} is damaged ({error}): {AGAIN}") from error


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_files(files: Iterable[Path]) -> str:
    """One hash of several files' names and contents, in this order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def file_name(*parts: str) -> str:
    """A file's name of texts, joined by `_`: characters that it can't hold percent-encoded, a long one shortened, with
    a hash for what is lost (file systems take 255 bytes, and a file being written has a longer name)."""
    name = "_".join(quote(part, safe="") for part in parts)
    if len(name) <= LONGEST_NAME:
        return name
    beginning = re.sub("%.?$", "", name[: LONGEST_NAME - 17])
    return f"{beginning}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def sha256_json(value: Any) -> str:
    """Hex digest of a value's JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
