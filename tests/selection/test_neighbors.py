"""The nearest sets against a sort of Python fractions: ties, domains, equal texts, short sets; both products."""

import math
from fractions import Fraction

import numpy as np
import pytest

from nopsd.errors import ConfigError
from nopsd.selection import jaccard
from nopsd.selection.exchange import RankSets
from nopsd.selection.neighbors import NO_NEIGHBOR, make_table, nearest_sets

NEURONS, M = 30, 6


@pytest.fixture(params=["sorting", "offering"], autouse=True)
def search(request, monkeypatch):
    monkeypatch.setattr(jaccard, "SMALL", 0 if request.param == "offering" else math.inf)


def pool(count, seed):
    """Few neurons and many sets: ties everywhere; some sets are empty, some equal."""
    draw = np.random.default_rng(seed)
    ids = np.full((count, 8), -1, np.int32)
    for row in ids:
        size = draw.integers(0, 9)
        row[:size] = draw.choice(NEURONS, size, replace=False)
    ids[5:9] = ids[4]
    return ids


def by_fractions(ids, query, others, m):
    """Numbers and distances of the m nearest of `others`, by exact (J, number)."""
    own = set(ids[query][ids[query] >= 0].tolist())

    def distance(other):
        theirs = set(ids[other][ids[other] >= 0].tolist())
        return 1 - Fraction(len(own & theirs), max(len(own | theirs), 1))

    near = sorted((distance(other), other) for other in others)[:m]
    return [number for _, number in near], [1.0 - float(1 - d) for d, _ in near]  # rounded as 1 - I / U is


@pytest.mark.parametrize("count", [3, 90, 1_300])
@pytest.mark.parametrize("kinds", [1, 2])
def test_nearest_of_the_same_domain_but_not_of_the_same_text(alone, count, kinds):
    """A question would be shown its own answer, another domain's, or one that is not the nearest."""
    ids = np.full((count, 8), -1, np.int32)
    ids[:] = pool(max(count, 10), count)[:count]
    uids = [f"q{i:04d}" for i in range(count)]
    texts = {uid: f"Text  {i // 2}" for i, uid in enumerate(uids)}
    domain = [str(i % 3 % kinds) for i in range(count)]
    table = make_table(texts, dict(zip(uids, domain)), uids[: count - count // 4])
    order = np.random.default_rng(0).permutation(count)
    queries = np.arange(0, count, max(1, count // 40))
    found = nearest_sets(table, queries, RankSets(order, ids[order], NEURONS), M, True, alone)
    for row, query in enumerate(queries):
        others = [i for i in range(count - count // 4) if i // 2 != query // 2 and domain[i] == domain[query]]
        numbers, distances = by_fractions(ids, query, others, M)
        missing = M - len(numbers)
        assert found.numbers[row].tolist() == numbers + [NO_NEIGHBOR] * missing
        assert found.distances[row][: len(numbers)].tolist() == distances
        assert np.isinf(found.distances[row][len(numbers) :]).all()


def test_equal_texts_may_be_shown_where_they_are_not_refused(alone):
    ids = pool(20, 1)
    table = make_table({f"q{i:02d}": "same" for i in range(20)})
    sets = RankSets(np.arange(20), ids, NEURONS)
    assert (nearest_sets(table, np.array([3]), sets, M, True, alone).numbers == NO_NEIGHBOR).all()
    found = nearest_sets(table, np.array([3]), sets, M, False, alone).numbers[0].tolist()
    assert found == by_fractions(ids, 3, [i for i in range(20) if i != 3], M)[0]


def test_all_sets_equal_gives_the_lowest_uids(alone):
    ids = np.tile(np.arange(8, dtype=np.int32), (70, 1))
    table = make_table({f"q{i:02d}": str(i) for i in range(70)})
    found = nearest_sets(table, np.array([2, 69]), RankSets(np.arange(70), ids, NEURONS), 4, True, alone)
    assert found.numbers.tolist() == [[0, 1, 3, 4], [0, 1, 2, 3]] and not found.distances.any()


def test_block_mib_changes_nothing_and_too_little_is_refused(alone, search, request):
    draw = np.random.default_rng(2)
    ids = np.stack([draw.choice(9_000, 600, replace=False) for _ in range(300)]).astype(np.int32)
    table, queries = make_table({f"q{i:03d}": str(i) for i in range(300)}), np.arange(0, 300, 3)
    sets = RankSets(np.arange(300), ids, 9_000)
    found = [nearest_sets(table, queries, sets, M, True, alone, block_mib=mib) for mib in (5, 512)]
    assert np.array_equal(found[0].numbers, found[1].numbers)
    assert np.array_equal(found[0].distances, found[1].distances)
    if "offering" in request.node.name:
        with pytest.raises(ConfigError, match="dist.block_mib=1 is too little"):
            nearest_sets(table, queries, sets, M, True, alone, block_mib=1)
