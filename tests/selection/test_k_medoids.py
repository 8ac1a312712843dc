"""k-medoids against brute force: a wrong medoid shows another question than the cluster's middle."""

from itertools import combinations

import numpy as np
import pytest

from nopsd.selection.k_medoids import assign, k_medoids


def random_distances(count, seed):
    points = np.random.default_rng(seed).random((count, 3))
    return np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1)).astype(np.float32)


def best_cost(distances, k):
    return min(distances[:, list(m)].min(1).sum(dtype=np.float64) for m in combinations(range(len(distances)), k))


@pytest.mark.parametrize("k", [1, 2, 3, 7, 8])
def test_k_medoids_finds_the_best_medoids_of_tiny_inputs(k):
    """Against all subsets; with this many restarts the best of 8 rows is found."""
    for seed in range(8):
        distances = random_distances(8, seed)
        found = k_medoids(distances, k, np.random.default_rng(seed), restarts=60)
        assert found.cost == pytest.approx(best_cost(distances, k), abs=1e-9)
        assert len(set(found.medoids.tolist())) == k and set(found.labels.tolist()) == set(range(k))
        nearest = distances[:, found.medoids].min(1)
        assert np.array_equal(distances[np.arange(8), found.medoids[found.labels]], nearest)


def test_k_medoids_stops_where_no_medoid_can_be_bettered_in_its_cluster():
    distances = random_distances(60, 1)
    found = k_medoids(distances, 5, np.random.default_rng(0))
    for cluster in range(5):
        members = np.flatnonzero(found.labels == cluster)
        sums = [sum(float(distances[a, b]) for b in members) for a in members]
        assert found.medoids[cluster] in members
        assert min(sums) == pytest.approx(sums[members.tolist().index(found.medoids[cluster])])


def test_k_medoids_is_deterministic_and_keeps_k_clusters_of_equal_rows():
    """Twins at distance 0 must not leave a cluster empty: then fewer than k questions would be kept."""
    distances = np.ones((9, 9), np.float32)
    for start in (0, 3, 6):
        distances[start : start + 3, start : start + 3] = 0
    for k in (2, 3, 5, 9):
        first, second = (k_medoids(distances, k, np.random.default_rng(4)) for _ in range(2))
        assert np.array_equal(first.medoids, second.medoids) and np.array_equal(first.labels, second.labels)
        assert len(set(first.labels.tolist())) == k == len(set(first.medoids.tolist()))
    assert assign(distances, np.array([0, 1])).tolist() == [0, 1] + [0] * 7
    with pytest.raises(ValueError, match="10 clusters of 9"):
        k_medoids(distances, 10, np.random.default_rng(0))
