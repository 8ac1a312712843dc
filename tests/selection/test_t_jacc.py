"""T-JACC (SPEC §12, §5): distances against Python sets."""

import numpy as np
import pytest

from nopsd.selection import jaccard
from nopsd.selection.jaccard import distance_blocks, jaccard_distances, mean_pairwise

NEURONS = 60


def random_sets(count, seed, width=12):
    draw = np.random.default_rng(seed)
    sets = [draw.choice(NEURONS, draw.integers(0, width + 1), replace=False) for _ in range(count)]
    sets[1] = sets[0][::-1]  # equal sets in another order
    padded = np.full((count, width), -1, np.int32)
    for row, ids in zip(padded, sets):
        row[: len(ids)] = ids
    return padded, [set(ids.tolist()) for ids in sets]


def by_sets(a, b):
    return 1.0 - len(a & b) / len(a | b) if a | b else 1.0


@pytest.mark.parametrize("block", [256, 3])
def test_t_jacc_equals_python_sets_whatever_the_block(monkeypatch, block):
    monkeypatch.setattr(jaccard, "QUERY_BLOCK", block)
    queries, query_sets = random_sets(10, 0)
    pool, pool_sets = random_sets(25, 1)
    found = jaccard_distances(queries, pool, NEURONS)
    assert found.dtype == np.float64
    assert np.array_equal(found, [[by_sets(a, b) for b in pool_sets] for a in query_sets])


def test_t_jacc_symmetric_with_zero_diagonal():
    ids, sets = random_sets(30, 2)
    found = jaccard_distances(ids, ids, NEURONS)
    assert np.array_equal(found, found.T)
    assert all(found[i, i] == (0 if sets[i] else 1) for i in range(30))
    assert found[0, 1] == 0


def test_mean_pairwise_is_over_pairs_of_different_questions():
    ids, sets = random_sets(12, 3)
    pairs = [by_sets(sets[i], sets[j]) for i in range(12) for j in range(12) if i != j]
    assert mean_pairwise(ids, NEURONS) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert mean_pairwise(ids[:1], NEURONS) is None


def test_only_blocks_are_ever_dense():
    """8,000 x 8,000 distances at once would be half a gigabyte."""
    ids = np.random.default_rng(0).integers(0, NEURONS, (600, 1)).astype(np.int32)
    assert [(first, block.shape) for first, block in distance_blocks(ids, ids, NEURONS)] == [
        (0, (256, 600)), (256, (256, 600)), (512, (88, 600)),
    ]  # fmt: skip


def test_empty_queries_and_pools():
    ids, _ = random_sets(4, 4)
    assert jaccard_distances(ids[:0], ids, NEURONS).shape == (0, 4)
    assert jaccard_distances(ids, ids[:0], NEURONS).shape == (4, 0)
