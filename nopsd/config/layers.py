"""What `neuron.layers` means: all, ranges such as 8-23, every n-th, or several of these with commas. Counted from 0."""

from __future__ import annotations

import re

from nopsd.errors import ConfigError

KEY = "neuron.layers"
_RANGE = re.compile(r"(\d{1,4})(?:\s*-\s*(\d{1,4}))?")
_EVERY = re.compile(r"every\s+(\d{1,4})")


def chosen_layers(text: str, count: int | None = None) -> tuple[int, ...]:
    """The layers that are meant, ascending.

    Args:
        text: The key's value.
        count: The model's layers; None: it is only looked whether the text can be read.

    Raises:
        ConfigError: It can't be, or names a layer that the model lacks.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, last, step = _slice(text, part.strip())
        last = last if last is not None else (count or first + 1) - 1
        if count is not None and last >= count:
            raise ConfigError(f"{KEY}={text}: the model has the layers 0-{count - 1}: name none beyond them")
        found.update(range(first, last + 1, step))
    return tuple(sorted(found))


def _slice(text: str, part: str) -> tuple[int, int | None, int]:
    if part == "all":
        return 0, None, 1
    if (every := _EVERY.fullmatch(part)) and int(every[1]):
        return 0, None, int(every[1])
    if (span := _RANGE.fullmatch(part)) and int(span[1]) <= int(span[2] or span[1]):
        return int(span[1]), int(span[2] or span[1]), 1
    raise ConfigError(f"{KEY}={text}: write all, a range such as 8-23, every 4, or several of these with commas")
