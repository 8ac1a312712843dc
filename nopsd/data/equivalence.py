"""Answers that are the same count as one: the step before every vote.

A judge's `same` need not be transitive (numbers within a tolerance) nor symmetric. The classes are the connected
components of "same one way or the other", and an answer stands for its class by what was given, not by when: so they
are transitive by construction and don't depend on the order of the answers.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from nopsd.data.judges.base import Same

Answers = list[str | None]


def unified(answers: Sequence[str | None], same: Same) -> Answers:
    """Each answer replaced by its class's most frequent one (of these the shortest, then the first by text).

    Args:
        answers: Of one question; None: none could be read, which is the same as no other.
        same: Whether two answers are one.

    Returns:
        In the order given: equal where they are of one class.
    """
    counts = Counter(answer for answer in answers if answer is not None)
    if same is operator.eq or len(counts) < 2:
        return list(answers)
    parents = {answer: answer for answer in sorted(counts)}

    def root(answer: str) -> str:
        while parents[answer] != answer:
            answer = parents[answer]
        return answer

    for a, b in combinations(list(parents), 2):
        if root(a) != root(b) and (same(a, b) or same(b, a)):
            parents[root(b)] = root(a)
    members: dict[str, list[str]] = {}
    for answer in parents:
        members.setdefault(root(answer), []).append(answer)
    shown = {r: min(found, key=lambda a: (-counts[a], len(a), a)) for r, found in members.items()}
    return [None if answer is None else shown[root(answer)] for answer in answers]
