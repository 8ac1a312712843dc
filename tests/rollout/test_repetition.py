"""Repetition in responses: a loop that is not seen is a collapse that is not told."""

import random

import pytest

from nopsd.rollout.repetition import repetition


def naive(ids: list[int], n: int) -> float:
    grams = [ids[i : i + n] for i in range(len(ids) - n + 1)]
    return sum(grams.count(gram) > 1 for gram in grams) / len(grams) if grams else 0.0


def test_repeated_and_distinct_4grams_against_counting_by_hand():
    """Broken if the first occurrence isn't counted, responses are mixed up, or short ones divide by zero."""
    assert repetition([[1, 2, 3, 4, 5, 1, 2, 3, 4]])[0] == pytest.approx(2 / 6)
    assert repetition([[7] * 50])[0] == 1.0 and repetition([list(range(50))])[0] == 0.0
    assert repetition([[1, 2, 3], [], [7] * 5])[0] == pytest.approx(1 / 3)
    assert repetition([[1, 2, 3, 4], [1, 2, 3, 4]])[0] == 0.0  # alike, but neither repeats itself
    assert repetition([[1, 2, 3, 4], [1, 2, 3, 4]])[1] == 0.5 and repetition([[1], []])[1] == 1.0
    source = random.Random(0)
    responses = [[source.randrange(3) for _ in range(source.randrange(40))] for _ in range(20)]
    assert repetition(responses)[0] == pytest.approx(sum(naive(r, 4) for r in responses) / 20)
