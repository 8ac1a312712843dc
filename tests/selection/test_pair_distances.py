"""All distances of a pool at once: refused with the remedy where they don't fit, before any work."""

import numpy as np
import pytest

from nopsd.errors import ConfigError
from nopsd.selection.exchange import RankSets
from nopsd.selection.pair_distances import needed_mib, pair_distances, refuse_too_many
from tests.selection.pools import NEURONS, by_sets, random_sets


def distances_of(ids, alone, block_mib=64):
    uids = [f"q{i:02d}" for i in range(len(ids))]
    pairs = pair_distances(uids, RankSets(np.arange(len(ids)), ids, NEURONS), alone, block_mib)
    return pairs(np.arange(len(ids)), 3)


def test_the_matrix_equals_python_sets_whatever_the_blocks(alone):
    """A wrong pair puts a question into another cluster, and another question is trained on."""
    ids, sets = random_sets(40, 3)
    sets[5], ids[5] = set(), -1
    plain = [[0.0 if i == j else by_sets(a, b) for j, b in enumerate(sets)] for i, a in enumerate(sets)]
    assert np.array_equal(distances_of(ids, alone), np.array(plain, np.float32))


def test_a_pool_too_large_for_the_memory_is_refused_with_the_remedy(alone):
    """A matrix of N x N must not be begun where it can't be ended."""
    with pytest.raises(ConfigError, match=r"5636 questions take .*block_mib=100: set dist.block_mib=\d+.*pool_lim"):
        refuse_too_many(5636, 1127, 5000, 100)
    message = ""
    try:
        refuse_too_many(100_000, 20_000, 5000, 512)
    except ConfigError as error:
        message = str(error)
    limit = int(message.split("data.pool_limit=")[1].split()[0])
    assert needed_mib(limit, limit // 5, 5000) <= 512 < needed_mib(limit + 60, (limit + 60) // 5, 5000)
    refuse_too_many(5636, 1127, 5000, 512)  # the paper's largest science pool fits the default
    with pytest.raises(ConfigError, match="1000 questions take"):
        distances_of(np.zeros((1000, 2), np.int32), alone, block_mib=1)
