"""`neuron_density` against plain loops over Python sets. On several ranks: test_registry_on_ranks."""

from __future__ import annotations

import numpy as np
import pytest

from nopsd.config import SelectConfig
from nopsd.selection.exchange import RankSets
from nopsd.selection.pair_distances import pair_distances
from nopsd.selection.pool import make_pool
from nopsd.selection.selectors import select
from nopsd.selection.selectors.neuron_density import nearest_mean


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    left, right = set(a.tolist()) - {-1}, set(b.tolist()) - {-1}
    return 1 - len(left & right) / len(left | right) if left | right else 1.0


def test_a_score_is_the_mean_distance_to_the_budgets_nearest_others(alone):
    """Itself counted, or one neighbor too many, shows; so does an empty set's distance of 1."""
    draw = np.random.default_rng(4)
    ids = np.full((14, 9), -1, dtype=np.int32)
    for row in range(13):  # the last set is empty
        size = int(draw.integers(2, 10))
        ids[row, :size] = np.sort(draw.choice(30, size, replace=False))
    uids = [f"q{i:02d}" for i in range(14)]
    pool = make_pool(
        uids,
        np.ones(14),
        np.full(14, 5),
        np.zeros(14, bool),
        pairs=pair_distances(uids, RankSets(np.arange(14), ids, 40), alone, 64),
    )
    found = select(pool, SelectConfig(selector="neuron_density", fraction=0.25, ties="exact"))
    wanted = {
        uid: sum(sorted(jaccard(ids[i], ids[j]) for j in range(14) if j != i)[:3]) / 3 for i, uid in enumerate(uids)
    }
    assert found.scores == pytest.approx(wanted, abs=1e-6)
    assert set(found.uids) == set(sorted(wanted, key=wanted.__getitem__)[:3])


def test_a_small_tight_cluster_does_not_win_over_a_large_one():
    """Neighbourhoods as large as the budget: three near-copies are not the pool's consensus, eight alike are."""
    distances = np.full((12, 12), 1.0, dtype=np.float32)
    distances[:3, :3], distances[3:11, 3:11] = 0.01, 0.3
    np.fill_diagonal(distances, 0)
    assert nearest_mean(distances, 2).argmin() < 3
    scores = nearest_mean(distances, 6)
    assert set(np.argsort(scores)[:6]) <= set(range(3, 11))


@pytest.mark.parametrize("size", [1, 2])
def test_fewer_others_than_the_budget_are_all_taken(size):
    distances = np.full((size, size), 0.5) - 0.5 * np.eye(size)
    assert nearest_mean(distances, 5).tolist() == ([0.0] if size == 1 else [0.5, 0.5])
