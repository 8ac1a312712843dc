"""NAIT's reference set: examples of a target ability, a JSONL file of the user's (the selector `nait`).

In: lines `{"prompt", "response"}` or `{"instruction", "input"?, "output"}`. Out: the examples as rollouts, so that
they pass through the model as responses do. Nothing of the pool is read here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nopsd.errors import ConfigError, DataError
from nopsd.rollout.types import Rollout

LEAST = 2  # examples that have a principal component
# (prompt, response) -> their token ids
Encode = Callable[[str, str], tuple[list[int], list[int]]]


def read_reference(path: str | Path, limit: int, encode: Encode, window: int | None = None) -> list[Rollout]:
    """The first examples of a file, in order; blank lines don't count.

    Args:
        path: JSONL of prompts and responses.
        limit: How many.
        encode: Makes the ids of prompt and response.
        window: Tokens of an example, at most; None: not checked.

    Raises:
        ConfigError: The file can't be read.
        DataError: A line has no prompt and response or is longer than `window`, or there are fewer than two.
    """
    path = Path(path)
    examples: list[Rollout] = []
    for number, line in _lines(path):
        where = f"signal.reference: {path}, line {number}"
        prompt_ids, response_ids = encode(*_pair(line, where))
        length = len(prompt_ids) + len(response_ids)
        if not prompt_ids or not response_ids:
            raise DataError(f"{where}: the {'response' if prompt_ids else 'prompt'} has no token: remove the line")
        if window is not None and length > window:
            raise DataError(f"{where}: {length} tokens, and the model's window is {window}: shorten or remove it")
        examples.append(Rollout(f"{len(examples):08d}", 0, prompt_ids, response_ids, "", "stop", 0))
        if len(examples) == limit:
            break
    if len(examples) < LEAST:
        raise DataError(f"signal.reference: {path} has {len(examples)} examples: nait needs {LEAST} at least")
    return examples


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        # Only "\n" ends a line: JSON leaves U+2028 and its like bare inside strings.
        with open(path, encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"signal.reference={path} can't be read ({error}): give a UTF-8 JSONL file") from error


def _pair(line: str, where: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON ({error.msg}, column {error.colno}): correct the line") from error
    if isinstance(row, dict) and "prompt" in row:
        return _text(row, "prompt", where), _text(row, "response", where)
    if isinstance(row, dict) and "instruction" in row:
        given = _text(row, "input", where) if row.get("input") else ""
        instruction = _text(row, "instruction", where)
        return f"{instruction}\n\n{given}" if given else instruction, _text(row, "output", where)
    raise DataError(f"{where}: give an object with prompt and response, or with instruction and output")


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {key} must be a text that isn't empty")
    return value
