"""Option labels as a reader sees them: `A)`, `(A)` and `A.` are all A; how each is found in text.

In: a question's labels. Out: `Labels`, which holds an expression for any label as it is written, and the label that was
meant. Capital letters are looked for from A to J at least: an answer E to options A to D is wrong, and no other letter
of the text is its answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

_EDGES = re.compile(r"^[\s(\[{<\"'*_]+|[\s)\]}>.:,;\"'*_]+$")
_SYMBOL = re.compile(r"[^\W_]|[IVX]{1,4}|[ivx]{1,4}|\d{1,2}")
_ROMAN = re.compile(r"[IVX]+", re.IGNORECASE)


def core(label: str) -> str:
    """The label without the punctuation around it; the label itself if it is nothing else."""
    return _EDGES.sub("", label) or label


@dataclass(frozen=True)
class Labels:
    """`symbols`: each is a letter, a number or a numeral, and no phrase. `letters`: each is one letter.

    `source`: expression of one label; `capital`: all are capitals, so that a small letter is text. `roman`: they are
    numerals, so that II is no sign of other numerals.
    """

    by_core: Mapping[str, str]
    symbols: bool
    letters: bool
    source: str
    capital: bool
    roman: bool

    def of(self, written: str | None) -> str | None:
        """The label that is meant by what is written; None if none is."""
        return None if written is None else self.by_core.get(core(written).casefold())


@lru_cache(maxsize=4096)
def labels_of(given: Sequence[str]) -> Labels:
    """Of a question's labels, as a tuple."""
    cores = [core(label) for label in given]
    symbols = bool(cores) and all(_SYMBOL.fullmatch(text) for text in cores)
    latin = symbols and all(len(text) == 1 and text.isascii() and text.isalpha() for text in cores)
    capital = latin and all(text.isupper() for text in cores)
    if capital:
        source = f"[A-{max('J', *cores)}]"
    elif latin:
        last = max("j", *(text.lower() for text in cores))
        source = f"[a-{last}A-{last.upper()}]"
    else:
        forms = {form for text in cores for form in (text, text.upper(), text.lower())}
        source = f"(?:{'|'.join(map(re.escape, sorted(forms, key=len, reverse=True)))})"
    return Labels(
        {text.casefold(): label for text, label in zip(cores, given, strict=True)},
        symbols,
        symbols and all(len(text) == 1 and text.isalpha() for text in cores),
        source,
        capital,
        not latin and all(_ROMAN.fullmatch(text) for text in cores),
    )
