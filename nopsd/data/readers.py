"""An answer judge of a user's own: a function that reads a response's answer, in a file of theirs (nopsd.plugins).

    def number(text: str, question: Question) -> str | None: ...

`text` is a response without its thinking, or the gold answer. Two answers agree if what is read of them is equal; None
is an answer that can't be read, which counts as wrong. Named by `eval.extract=module:attribute`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType

from nopsd.config import ENTRY_POINTS
from nopsd.data.records import Question
from nopsd.plugins import is_own, resolve

GROUP = ENTRY_POINTS["eval.extract"]  # of entry points
Reader = Callable[[str, Question], str | None]


@cache
def own_reader(mode: str) -> Reader | None:
    """The function that eval.extract names; None for ours. ConfigError if it can't be imported."""
    return resolve("eval.extract", mode, {}, GROUP, FunctionType) if is_own(mode, GROUP) else None
