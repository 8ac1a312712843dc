"""`stratified`: each cluster of neuron sets gives its share, whichever of its questions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nopsd.config import SelectConfig
from nopsd.selection.exchange import RankSets
from nopsd.selection.pair_distances import pair_distances
from nopsd.selection.pool import make_pool
from nopsd.selection.selectors import select
from nopsd.selection.selectors.stratified import spread


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 1000), st.floats(0.05, 1))
def test_any_budget_takes_of_each_cluster_its_share_to_one_question(labels, seed, share):
    labels = np.array(labels)
    scores = spread(np.random.default_rng(seed).random(len(labels)), labels)
    assert ((scores >= 0) & (scores < 1)).all()
    kept = scores < share
    for label in np.unique(labels):
        assert abs(kept[labels == label].sum() - share * (labels == label).sum()) <= 1 + 1e-9


@pytest.mark.parametrize("seed", [0, 1])
def test_two_kinds_of_neuron_sets_give_in_proportion(alone, seed):
    """Sets of two halves of the model: 8 and 16 questions, a quarter of each."""
    draw = np.random.default_rng(3)
    kinds = np.array([i % 3 == 0 for i in range(24)])
    ids = np.array([np.sort(draw.choice(8, 6, replace=False)) + (20 if kind else 0) for kind in kinds], np.int32)
    uids = [f"q{i:02d}" for i in range(24)]
    pairs = pair_distances(uids, RankSets(np.arange(24), ids, 40), alone, 64)
    pool = make_pool(uids, np.ones(24), np.full(24, 5), np.zeros(24, bool), pairs=pairs)
    found = select(pool, SelectConfig("stratified", 0.25, clusters=2, seed=seed))
    assert len(found.uids) == 6
    assert sum(kinds[uids.index(uid)] for uid in found.uids) == 2
    other = select(pool, SelectConfig("stratified", 0.25, clusters=2, seed=seed + 5))
    assert set(found.uids) != set(other.uids)
