"""Similarities of questions in select.space, and the filter of what is too much alike."""

import numpy as np
import pytest

from nopsd.config import SelectConfig
from nopsd.errors import DataError
from nopsd.selection.exchange import RankSets
from nopsd.selection.pair_distances import pair_distances
from nopsd.selection.pool import make_pool
from nopsd.selection.selectors import select
from nopsd.selection.selectors.spaces import space_of, unlike

UIDS = ["q0", "q1", "q2", "q3"]


def unit(*degrees):
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def pool(columns=None, pairs=None):
    size = len(UIDS)
    counts = np.arange(size) + 1.0
    return make_pool(UIDS, counts, np.full(size, 5), np.zeros(size, bool), columns=columns, pairs=pairs)


def test_redundancy_drops_what_is_too_much_like_a_better_question():
    """20 degrees from the first is a cosine of .94, dropped at .9; 30 degrees, .87, is kept, and so is 60."""
    columns = {"embedding": unit(0, 20, 30, 60)}
    found = select(pool(columns), SelectConfig(fraction=1, redundancy=0.9))
    assert found.uids == ["q0", "q2", "q3"] and found.threshold == 4
    assert select(pool(columns), SelectConfig(fraction=0.5, redundancy=0.9)).uids == ["q0", "q2"]
    assert select(pool(columns), SelectConfig(fraction=1, redundancy=0.95)).uids == [
        "q0",
        "q1",
        "q3",
    ]  # 10 degrees apart
    other = SelectConfig(selector="neuron_count_top", fraction=1, redundancy=0.9)
    assert select(pool(columns), other).uids == ["q3", "q2", "q0"]  # of 20 and 30 degrees the better is kept
    everything = SelectConfig(selector="all", redundancy=0.9)
    assert select(pool(columns), everything).uids == ["q0", "q2", "q3"]


def test_redundancy_with_neuron_sets(alone):
    """Equal sets go, however good; 1 of 3 shared is a similarity of a third."""
    ids = np.array([[0, 1], [1, 0], [1, 2], [5, 6]], np.int32)
    pairs = pair_distances(UIDS, RankSets(np.arange(4), ids, 10), alone, 64)
    for most, kept in ((0.9, ["q0", "q2", "q3"]), (0.3, ["q0", "q3"])):
        config = SelectConfig(fraction=1, redundancy=most, space="jaccard")
        assert select(pool(pairs=pairs), config).uids == kept
    space = space_of(pool(pairs=pairs), SelectConfig(space="jaccard"))
    assert space.alike(np.array([0, 2]))[:, 2].tolist() == pytest.approx([1 / 3, 1], abs=1e-6)
    assert space.centre in (0, 1)


def test_a_similarity_of_exactly_the_limit_is_kept():
    columns = {"embedding": np.array([[1, 0], [1, 0], [0.6, 0.8], [0, -1.0]])}
    space = space_of(pool(columns), SelectConfig())
    limit = float(space.alike(np.array([0]))[0, 2])
    assert unlike(np.arange(4), space, limit, 4).tolist() == [0, 2, 3]
    assert unlike(np.arange(4), space, np.nextafter(limit, 0), 4).tolist() == [0, 3]


def test_distances_of_representations_are_those_of_unit_vectors():
    """phi = [s; D] at unit length: (3, 4) with no way becomes (.6, .8)."""
    columns = {"representation": np.array([[3, 4, 0, 0], [0, 0, 0, 2], [6, 8, 0, 0], [0, 0, 0, 0]])}
    space = space_of(pool(columns), SelectConfig(space="representation"))
    assert space.apart(0).tolist() == pytest.approx([0, np.sqrt(2), 0, np.sqrt(2)])


def test_a_vector_that_is_not_finite_is_refused_by_name():
    columns = {"embedding": np.array([[1, 0], [1, 0], [np.nan, 1], [0, 1]])}
    with pytest.raises(DataError, match="q2 has an embedding that is not finite"):
        select(pool(columns), SelectConfig(fraction=1, redundancy=0.5))
    with pytest.raises(DataError, match="column embedding"):
        select(pool(), SelectConfig(fraction=1, redundancy=0.5))
