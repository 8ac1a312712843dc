"""Formulas as math-verify compares them (the extra `nopsd[math]`): 1 + x^2 and x^2 + 1 are one answer.

Nothing here depends on the clock: math-verify's time limits are off, since ranks that disagreed on a vote would train
apart. What could take long to evaluate (powers of powers, long numbers) is compared as text instead.
"""

from __future__ import annotations

import importlib
import logging
import re
from functools import lru_cache
from typing import Any

from nopsd.data.judges.base import AnswerJudge, AnswerStyle
from nopsd.data.judges.stated import last_line, stated
from nopsd.data.records import Question
from nopsd.errors import ConfigError

PACKAGE = "math_verify"
LONGEST = 200  # characters of a formula
_COSTLY = re.compile(r"\^[^\s$]*\^|\^\s*\{?\s*-?\d{4,}|\d{4,}\s*!|!\s*!|\d{40,}")
_FORMULA = re.compile(r"\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)


def math_judge(style: AnswerStyle) -> AnswerJudge:
    """Answers as formulas. ConfigError if math-verify isn't installed."""
    try:
        importlib.import_module(PACKAGE)
    except ImportError as error:
        raise ConfigError(
            "answer.judge=math needs the package math-verify, which is not installed: pip install 'nopsd[math]'"
        ) from error
    logging.getLogger(PACKAGE).setLevel(logging.ERROR)  # it warns of each call without its time limit

    def read(text: str, question: Question) -> str | None:
        said = stated(text, style)
        if said is None and style.lenient:
            said = last_line(text) or _last_formula(text)
        return bare(said or "") or None

    return AnswerJudge(read, same, gold=lambda gold, question: bare(gold) or None)


def bare(formula: str) -> str:
    """Without the marks of mathematics around it, and single-spaced."""
    return " ".join(formula.split()).strip("$ ").removeprefix("\\(").removesuffix("\\)").strip(" .")


def same(a: str, b: str) -> bool:
    """Whether two formulas have the same value, or are the same text."""
    if a == b:
        return True
    if max(len(a), len(b)) > LONGEST or _COSTLY.search(a) or _COSTLY.search(b):
        return False
    x, y = _parsed(a), _parsed(b)
    return bool(x and y and importlib.import_module(PACKAGE).verify(x, y, timeout_seconds=None))


@lru_cache(maxsize=4096)
def _parsed(formula: str) -> Any:
    return importlib.import_module(PACKAGE).parse(f"${formula}$", parsing_timeout=None)


def _last_formula(text: str) -> str | None:
    found = _FORMULA.findall(text)
    return next(filter(None, found[-1])) if found else None
