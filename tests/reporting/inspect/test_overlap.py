"""nopsd.reporting.inspect.overlap against Python sets, drawing at random, and points in a plane."""

import numpy as np
import pytest

from nopsd.reporting.inspect.overlap import chance_distance, classical_scaling, nearest_of, overlap


def members(row):
    return {int(i) for i in row if i >= 0}


def distance(a, b):
    return 1 - len(a & b) / len(a | b) if a | b else 1.0


def test_distances_are_those_of_python_sets_in_the_order_shown(sets):
    """A heatmap whose rows are not the questions it names shows nothing."""
    ids, histogram, widths = sets
    seen = overlap(ids, histogram, widths, sample=20)
    assert len(seen.rows) == len(set(seen.rows.tolist())) == 20
    own = [members(ids[row]) for row in seen.rows]
    expected = [[0.0 if i == j else distance(a, b) for j, b in enumerate(own)] for i, a in enumerate(own)]
    np.testing.assert_allclose(seen.distances, expected, atol=1e-12)
    assert seen.pairs.mean() == pytest.approx(np.mean([expected[i][j] for i in range(20) for j in range(i)]))


def test_clustering_puts_the_groups_side_by_side(sets):
    """Without an order by similarity the map looks like noise."""
    ids, histogram, widths = sets
    seen = overlap(ids, histogram, widths)
    changes = np.count_nonzero(np.diff((seen.rows < 15).astype(int)))
    assert changes == 1
    assert abs(seen.map_n2[seen.rows < 15, 0].mean() - seen.map_n2[seen.rows >= 15, 0].mean()) > 0.3


def test_the_sample_is_the_seeds(sets):
    """The same run must give the same map."""
    ids, histogram, widths = sets
    first, again, other = (overlap(ids, histogram, widths, 10, seed) for seed in (1, 1, 2))
    assert first.rows.tolist() == again.rows.tolist() != other.rows.tolist()
    assert overlap(ids[:2], histogram[:2], widths) is None


def test_empty_sets_are_far_from_all_but_themselves(sets):
    """A response without positive contributions has an empty set; clustering must bear it."""
    ids, histogram, widths = (np.array(part) for part in sets)
    ids[3], histogram[3] = -1, 0
    seen = overlap(ids, histogram, widths)
    place = seen.rows.tolist().index(3)
    assert np.delete(seen.distances[place], place).tolist() == [1.0] * 29 and seen.distances[place, place] == 0


def test_chance_is_what_random_sets_give():
    """The baseline that overlap is read against: drawn within layers, each set's own sizes."""
    widths, rng = (40, 25), np.random.default_rng(0)
    histogram = np.array([[10, 5], [20, 5], [8, 12]])
    drawn = []
    for _ in range(1500):
        picked = [
            {(layer, int(i)) for layer, n in enumerate(row) for i in rng.choice(widths[layer], n, replace=False)}
            for row in histogram
        ]
        drawn.append(np.mean([distance(picked[i], picked[j]) for i in range(3) for j in range(i)]))
    assert chance_distance(histogram, widths) == pytest.approx(np.mean(drawn), abs=0.01)
    assert chance_distance(np.array([[10], [10]]), [100]) == pytest.approx(1 - 1 / 19)


def test_scaling_gives_back_points_of_a_plane():
    """Principal coordinates of distances in a plane are the points, but for turning and mirroring."""
    points = np.random.default_rng(0).normal(size=(12, 2)) * [3, 1]
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    found, share = classical_scaling(distances)
    np.testing.assert_allclose(np.linalg.norm(found[:, None] - found[None], axis=2), distances, atol=1e-9)
    assert share == pytest.approx(1) and found[:, 0].std() > found[:, 1].std()
    same, share = classical_scaling(np.zeros((4, 4)))
    assert not same.any() and share == 0


def test_nearest_are_brute_forces(sets):
    """The neighbours shown must be the nearest, ties by uid, with the neurons they really share."""
    ids, _, widths = sets
    ids = np.concatenate([ids, ids[2:3]])  # an exact copy: distance 0, and ties with every other question
    starts = np.concatenate([[0], np.cumsum(widths)])
    for row, found in zip((0, 2, 30), nearest_of([0, 2, 30], ids, widths, 5)):
        own = members(ids[row])
        order = sorted((distance(own, members(other)), place) for place, other in enumerate(ids) if place != row)[:5]
        assert [(near.distance, near.row) for near in found] == [(pytest.approx(d), place) for d, place in order]
        for near in found:
            shared = own & members(ids[near.row])
            assert near.shared == len(shared)
            layers = [sum(starts[k] <= i < starts[k + 1] for i in shared) for k in range(len(widths))]
            assert near.by_layer.tolist() == layers
    assert len(nearest_of([0], ids[:3], widths, 10)[0]) == 2
