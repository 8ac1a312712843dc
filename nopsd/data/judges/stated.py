r"""Where a response to a question without options states its answer: a tag, a box, a last line, or all of it."""

from __future__ import annotations

import re

from nopsd.data.answer_marks import boxed, tagged
from nopsd.data.judges.base import AnswerStyle

_LINE = re.compile(
    r"^[\s*_#>]*(?:the\s+)?(?:final\s+)?answer[\s*_]*[:：][\s*_]*(\S.*?)[\s*_]*$", re.IGNORECASE | re.MULTILINE
)


def stated(text: str, style: AnswerStyle) -> str | None:
    """What the answer is said to be, as written; None if it isn't where `style` looks.

    The asked form comes first. Strictly no other is read.
    """
    if style.format == "box" and (inside := boxed(text)) is not None:
        return inside
    if (style.lenient or style.format == "tag") and (inside := tagged(text)) is not None:
        return inside
    if style.lenient and (inside := boxed(text)) is not None:
        return inside
    if style.format == "line" and (lines := _LINE.findall(text)):
        return str(lines[-1])
    return text if style.format == "bare" else None


def last_line(text: str) -> str | None:
    """What stands behind the last line's `Answer:`, whatever was asked for."""
    lines = _LINE.findall(text)
    return str(lines[-1]) if lines else None
