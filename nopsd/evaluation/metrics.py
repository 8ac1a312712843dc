"""Evaluation metrics as pure functions (SPEC §9.3)."""

from __future__ import annotations

from collections import Counter
from typing import Sequence


def majority_answer(answers: Sequence[str | None]) -> tuple[str | None, float]:
    """(most frequent parsed answer, its share of *all* samples); ties go to the first seen, as in TTRL."""
    counts = Counter(a for a in answers if a is not None)
    if not counts:
        return None, 0.0
    answer, count = counts.most_common(1)[0]
    return answer, count / len(answers)
