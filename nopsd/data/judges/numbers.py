r"""Numbers as they are written, as exact fractions: 1,200 and 1200.0, 1/2, 0.5, 3 1/2 and \frac12.

Units and currency signs are no part of a number. Of several numbers the last one is meant: 3 + 2 = 5.
"""

from __future__ import annotations

import re
from fractions import Fraction

from nopsd.data.judges.base import AnswerStyle
from nopsd.data.judges.stated import last_line, stated
from nopsd.data.records import Question

LONGEST = 400  # digits: beyond them it is no answer
LARGEST_EXPONENT = 300
_FRAC = re.compile(r"\\[dt]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_SPACING = re.compile(r"\\[,;!: ]|\{,\}(?=\d{3})|~|\u00a0|\u202f|\\left|\\right")
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>(?<![\d)\]%]\s)-|\+)?\$?(?:(?P<whole>\d+)\s+(?=\d+\s*/\s*\d))?"
    rf"(?P<top>{_DIGITS})(?:[eE](?P<exponent>[-+]?\d+))?(?:\s*/\s*(?P<bottom>{_DIGITS}))?"
)
_MARKED = re.compile(r"####\s*(\S[^\n]*)")
_PROSE = re.compile(r"answer(?:\s+is|\s*=|\s*:)\s*((?:(?!\.\s)[^\n])*)", re.IGNORECASE)


def read_number(text: str, style: AnswerStyle) -> str | None:
    """The number that a response states: where it was asked for, else (leniently) behind "####", "Answer:" or "answer
    is", else the last one. None if there is none."""
    said = stated(text, style)
    if said is not None or not style.lenient:
        return None if said is None else last_number(said)
    marked, prose = _MARKED.findall(text), _PROSE.findall(text)
    for part in (marked[-1:], [last_line(text)], prose[-1:]):
        if part and part[0] and (number := last_number(part[0])) is not None:
            return number
    return last_number(text)


def last_number(text: str, question: Question | None = None) -> str | None:
    """The last number of a text in one form: whole, decimal where that is exact, else a fraction."""
    text = _FRAC.sub(_plain_fraction, _SPACING.sub("", text.replace("\u2212", "-").replace("\\$", "$")))
    values = [value for found in _NUMBER.finditer(text) if (value := _value(found)) is not None]
    return shown(values[-1]) if values else None


def _plain_fraction(found: re.Match[str]) -> str:
    before = found.string[max(0, found.start() - 1) : found.start()]
    return f"{' ' * before.isdigit()}{(found[1] or found[2]).strip()}/{(found[3] or found[4]).strip()}"


def _value(found: re.Match[str]) -> Fraction | None:
    exponent = int(found["exponent"] or 0) if len(found["exponent"] or "") < 8 else LARGEST_EXPONENT + 1
    if len(found[0]) > LONGEST or abs(exponent) > LARGEST_EXPONENT:
        return None
    value = _plain(found["top"]) * Fraction(10) ** exponent
    if found["bottom"] is not None:
        bottom = _plain(found["bottom"])
        if not bottom:
            return None
        value /= bottom
    value += int(found["whole"] or 0)
    return -value if found["sign"] == "-" else value


def _plain(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))


def shown(value: Fraction) -> str:
    """A number's one form."""
    denominator, twos, fives = value.denominator, 0, 0
    while denominator % 2 == 0:
        denominator, twos = denominator // 2, twos + 1
    while denominator % 5 == 0:
        denominator, fives = denominator // 5, fives + 1
    if denominator != 1:
        return f"{value.numerator}/{value.denominator}"
    places = max(twos, fives)
    if not places:
        return str(value.numerator)
    digits = f"{abs(value.numerator) * 10**places // value.denominator:0{places + 1}d}"
    return f"{'-' * (value < 0)}{digits[:-places]}.{digits[-places:]}"


def close(a: str, b: str, tolerance: float) -> bool:
    """Whether two numbers in their one form are the same: whole ones if equal, others within the tolerance."""
    if a == b:
        return True
    x, y = Fraction(a), Fraction(b)
    if x.denominator == 1 and y.denominator == 1:
        return False
    return abs(x - y) <= Fraction(str(tolerance)) * max(abs(x), abs(y))
