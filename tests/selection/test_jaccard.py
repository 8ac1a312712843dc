"""Distances against Python sets, by scipy's product and by the kernel, whatever the blocks."""

import math
import tracemalloc

import numpy as np
import pytest
import torch

from nopsd.errors import ConfigError
from nopsd.selection import jaccard
from nopsd.selection.jaccard import blocks, distance_blocks, jaccard_distances, mean_pairwise
from nopsd.selection.sets import all_of
from nopsd.selection.tiles import plan_blocks

NEURONS = 60


@pytest.fixture(params=["sparse product", "kernel"])
def product(request, monkeypatch):
    monkeypatch.setattr(jaccard, "SMALL", 0 if request.param == "kernel" else math.inf)


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr(jaccard, "SMALL", 0)


def random_sets(count, seed, width=12, neurons=NEURONS):
    draw = np.random.default_rng(seed)
    sets = [draw.choice(neurons, draw.integers(0, width + 1), replace=False) for _ in range(count)]
    sets[1] = sets[0][::-1]  # equal sets in another order
    padded = np.full((count, width), -1, np.int32)
    for row, ids in zip(padded, sets):
        row[: len(ids)] = ids
    return padded, [set(ids.tolist()) for ids in sets]


def by_sets(a, b):
    return 1.0 - len(a & b) / len(a | b) if a | b else 1.0


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


@pytest.mark.parametrize("threads", [1, 3])
def test_kernel_over_several_tiles_pool_blocks_and_threads(kernel, threads):
    """Real pools have thousands of sets of neurons in dozens of tiles: any seam between blocks would be wrong."""
    ids, _ = random_sets(1_500, 3, 40, 20_000)
    ids[:, 0] = 7  # a neuron that all have, many that few have
    ids[:, 1:][ids[:, 1:] == 7] = -1
    member = np.zeros((1_500, 20_000), np.float32)
    for row, chosen in zip(member, ids):
        row[chosen[chosen >= 0]] = 1
    sizes = member.sum(1)
    common = member @ member.T  # exact: integers far below 2^24
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = jaccard_distances(ids, ids, 20_000)
    finally:
        torch.set_num_threads(before)
    union = (sizes[:, None] + sizes[None] - common).astype(np.int64)
    assert np.array_equal(found, 1.0 - common.astype(np.int64) / np.maximum(union, 1))


def test_kernel_counts_large_intersections(kernel):
    """Counters must hold all of K: 8,191 and 8,192 need one bit more than each other."""
    for size in (255, 256, 8_191, 8_192):
        ids = np.stack([np.arange(size), np.arange(size) + 1]).astype(np.int32)
        found = jaccard_distances(ids, ids, size + 1)
        assert np.array_equal(found, [[0, 1 - (size - 1) / (size + 1)], [1 - (size - 1) / (size + 1), 0]])


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


def test_blocks_hold_as_much_as_the_budget_and_no_more():
    """A host would run out of memory, or a large one not be used."""
    sizes = {"query_width": 5_000, "pool_width": 5_000, "neurons": 350_208, "threads": 2, "planes": 13}
    small, large = (plan_blocks(mib << 20, **sizes) for mib in (64, 512))
    assert small.queries < large.queries and small.pool <= large.pool == 1_024
    for mib, found in ((64, small), (512, large)):
        used = found.queries * 2 * 5_000 + found.pool * 2 * 5_000 + 2 * found.strip * 13 * 16 * 8 + 2 * 2**20
        assert 0.5 * mib * 2**20 < used <= mib * 2**20
    with pytest.raises(ConfigError, match=r"dist.block_mib=2 is too little .* set it to (\d+) or more") as refused:
        plan_blocks(2 << 20, **sizes)
    least = int(str(refused.value).split("set it to ")[1].split()[0])
    assert plan_blocks(least << 20, **sizes).pool >= 64


def test_empty_queries_and_pools(product):
    ids, _ = random_sets(4, 4)
    assert jaccard_distances(ids[:0], ids, NEURONS).shape == (0, 4)
    assert jaccard_distances(ids, ids[:0], NEURONS).shape == (4, 0)
    empty = np.full((3, 5), -1, np.int32)
    assert np.array_equal(jaccard_distances(empty, ids, NEURONS), np.ones((3, 4)))
    assert [first for first, _, _ in blocks(all_of(empty), all_of(empty), NEURONS, 2**30)] == [0]
