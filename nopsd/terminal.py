"""Colours on a terminal, and nowhere else: a log or a pipe gets the text alone."""

from __future__ import annotations

import os
import sys
from typing import TextIO

_CODES = {"red": 31, "green": 32, "yellow": 33, "dim": 2}


def painted(text: str, colour: str, stream: TextIO | None = None) -> str:
    """The text in a colour, if the stream (standard output by default) is a terminal and NO_COLOR isn't set."""
    stream = sys.stdout if stream is None else stream
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{_CODES[colour]}m{text}\033[0m"
