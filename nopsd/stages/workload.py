"""Amounts of work in words, for the dry run's lines."""

from __future__ import annotations

from nopsd.config import Config
from nopsd.selection.selectors.choosing import asked_for


def chosen(config: Config, pool: int) -> int:
    """Questions that selection leaves; a threshold's ties may add some (`select.ties=include`)."""
    return pool if config.select.selector == "all" else asked_for(config.select, pool)


def responses(questions: int | None, n: int, longest: int) -> str:
    """`n` responses to each of so many questions (None: all), and their tokens at most."""
    asked = f"{number(questions)} questions x {n} responses of at most {longest:,} tokens"
    return asked if questions is None else f"{asked}: at most {tokens(questions * n * longest)}"


def number(count: int | None) -> str:
    """The count, or `all`."""
    return "all" if count is None else f"{count:,}"


def tokens(count: int) -> str:
    """So many tokens, in millions or billions."""
    for size, name in ((10**9, "billion"), (10**6, "million")):
        if count >= size:
            return f"{count / size:.1f} {name} tokens"
    return f"{count:,} tokens"
