r"""Marks that an answer stands in: `<answer>…</answer>` and `\boxed{…}`."""

from __future__ import annotations

import re

# The innermost tag: a response that opens two and closes one means the second.
_TAG = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL | re.IGNORECASE)
_QUOTED = re.compile(r"[\W_]*(?:and|x|letter|the letter|your answer|answer|tags?)?[\W_]*", re.IGNORECASE)
_BRACES = re.compile(r"\\boxed\s*\{|\\[{}]|[{}]")
_WORDED = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf)\s*\{(.*)\}", re.DOTALL)


def tagged(text: str) -> str | None:
    """What the last filled answer tag holds; tags that only quote the instruction don't count."""
    filled = [inside for inside in _TAG.findall(text) if not _QUOTED.fullmatch(inside)]
    return filled[-1] if filled else None


def boxes(text: str) -> list[tuple[int, int]]:
    """Where the inside of each closed `\\boxed{...}` begins and ends, in order of closing, braces balanced."""
    opened: list[tuple[bool, int]] = []
    found = []
    for brace in _BRACES.finditer(text):
        if brace[0].startswith("\\boxed") or brace[0] == "{":
            opened.append((brace[0] != "{", brace.end()))
        elif brace[0] == "}" and opened:
            is_box, start = opened.pop()
            if is_box:
                found.append((start, brace.start()))
    return found


def boxed(text: str) -> str | None:
    """What the last box holds, without a mark of words around all of it; None if there is no box."""
    places = boxes(text)
    if not places:
        return None
    inside = text[slice(*places[-1])]
    worded = _WORDED.fullmatch(inside.strip())
    return worded[1] if worded else inside
