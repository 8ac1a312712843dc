"""Distances against Python sets, by scipy's product and by the kernel, whatever the blocks."""

import math
import tracemalloc

import numpy as np
import pytest

from nopsd.selection import jaccard
from nopsd.selection.jaccard import blocks, distance_blocks, jaccard_distances, mean_pairwise
from nopsd.selection.sets import all_of
from tests.selection.pools import NEURONS, by_sets, random_sets


@pytest.fixture(params=["sparse product", "kernel"])
def product(request, monkeypatch):
    monkeypatch.setattr(jaccard, "SMALL", 0 if request.param == "kernel" else math.inf)


def test_equals_python_sets(product):
    """Demonstrations would not be the nearest."""
    queries, query_sets = random_sets(10, 0)
    pool, pool_sets = random_sets(25, 1)
    found = jaccard_distances(queries, pool, NEURONS)
    assert found.dtype == np.float64
    assert np.array_equal(found, [[by_sets(a, b) for b in pool_sets] for a in query_sets])


def test_symmetric_with_zero_diagonal(product):
    ids, sets = random_sets(30, 2)
    found = jaccard_distances(ids, ids, NEURONS)
    assert np.array_equal(found, found.T)
    assert all(found[i, i] == (0 if sets[i] else 1) for i in range(30))
    assert found[0, 1] == 0


def test_mean_pairwise_is_over_pairs_of_different_questions(product):
    ids, sets = random_sets(12, 3)
    pairs = [by_sets(sets[i], sets[j]) for i in range(12) for j in range(12) if i != j]
    assert mean_pairwise(ids, NEURONS) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert mean_pairwise(ids[:1], NEURONS) is None


def test_mean_pairwise_has_the_same_bits_whatever_the_blocks(product):
    """The selection's statistics are compared over ranks and runs by their hash."""
    ids, _ = random_sets(700, 5)
    assert len(list(distance_blocks(ids, ids, NEURONS, 4))) > 5
    assert mean_pairwise(ids, NEURONS, 4) == mean_pairwise(ids, NEURONS, 512)


def test_only_blocks_are_ever_dense(product):
    """8,000 x 8,000 distances at once would be half a gigabyte."""
    ids, _ = random_sets(3_000, 6)
    for _ in distance_blocks(ids[:50], ids, NEURONS, 6):  # compiled before memory is looked at
        pass
    tracemalloc.start()
    rows = [block.shape for _, block in distance_blocks(ids, ids, NEURONS, 6)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) > 10 and sum(r for r, _ in rows) == 3_000
    assert peak < 6 * 2**20 + 2**19  # besides: the sets' sizes


def test_empty_queries_and_pools(product):
    ids, _ = random_sets(4, 4)
    assert jaccard_distances(ids[:0], ids, NEURONS).shape == (0, 4)
    assert jaccard_distances(ids, ids[:0], NEURONS).shape == (4, 0)
    empty = np.full((3, 5), -1, np.int32)
    assert np.array_equal(jaccard_distances(empty, ids, NEURONS), np.ones((3, 4)))
    assert [first for first, _, _ in blocks(all_of(empty), all_of(empty), NEURONS, 2**30)] == [0]
