"""The majority answer of a question's samples: one rule for selection, rewards, training and evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def majority(answers: Sequence[str | None]) -> tuple[str | None, int]:
    """The most frequent answer and its count; of equals the one given first, as in TTRL. None, 0: none was read."""
    counts = Counter(answer for answer in answers if answer is not None)
    return counts.most_common(1)[0] if counts else (None, 0)
