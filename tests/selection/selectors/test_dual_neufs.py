"""`dual_neufs`: clustering against brute force, scores against plain loops, memory before work."""

import numpy as np
import pytest

from nopsd.config import SelectConfig
from nopsd.selection.exchange import RankSets
from nopsd.selection.pair_distances import pair_distances
from nopsd.selection.pool import make_pool
from nopsd.selection.selectors import select
from nopsd.selection.selectors.dual_neufs import min_max


def test_min_max_is_inside_each_cluster_and_0_where_all_are_equal():
    found = min_max(np.array([1.0, 3.0, 2.0, 10.0, 20.0, 5.0]), np.array([0, 0, 0, 1, 1, 2]))
    assert found.tolist() == [0, 1, 0.5, 0, 1, 0]


def sets_of(groups, each, alone):
    """Three far-apart groups of overlapping sets, as id lists."""
    rows = []
    for group in range(groups):
        core = np.arange(6) + 20 * group
        rows += [
            np.sort(np.concatenate([core, 20 * group + 6 + np.array([i % 10, (i + alone) % 10])])) for i in range(each)
        ]
    return np.array(rows, dtype=np.int32)


def run(ids, counts, alone, fraction, block_mib=64, **settings):
    uids = [f"q{i:02d}" for i in range(len(ids))]
    sets = RankSets(np.arange(len(ids)), ids, 1000)
    pool = make_pool(
        uids,
        counts,
        settings.pop("lengths", np.full(len(ids), 5)),
        np.zeros(len(ids), bool),
        pairs=pair_distances(uids, sets, alone, block_mib),
    )
    return select(pool, SelectConfig(selector="dual_neufs", fraction=fraction, **settings))


def jaccard(a, b):
    a, b = set(a.tolist()) - {-1}, set(b.tolist()) - {-1}
    return 1 - len(a & b) / len(a | b) if a | b else 1.0


@pytest.mark.parametrize("tau", [0.25, 1.0])
def test_the_best_of_each_cluster_is_kept_by_tau_q_and_distance(alone, tau):
    """Three groups of far-apart sets and a budget of three: one of each, the best by the formula, exactly k."""
    ids, counts = sets_of(3, 5, 3), np.random.default_rng(2).integers(10, 90, 15).astype(np.float32)
    found = run(ids, counts, alone, 0.2, tau=tau)
    wanted = []
    for group in range(3):
        members = range(5 * group, 5 * group + 5)
        sums = {a: sum(jaccard(ids[a], ids[b]) for b in members) for a in members}
        medoids = [a for a in members if abs(sums[a] - min(sums.values())) < 1e-9]
        d = {a: jaccard(ids[a], ids[medoids[0]]) for a in members}
        q_low, q_high, d_low, d_high = min(counts[members]), max(counts[members]), min(d.values()), max(d.values())
        score = {
            a: tau * (counts[a] - q_low) / (q_high - q_low) + (1 - tau) * (1 - (d[a] - d_low) / (d_high - d_low))
            for a in members
        }
        best = max(members, key=score.get)
        wanted.append(f"q{best:02d}")
        if len(medoids) == 1:
            assert {u: found.scores[u] for u in (f"q{a:02d}" for a in members)} == pytest.approx(
                {f"q{a:02d}": s for a, s in score.items()}, abs=1e-6
            )
    assert len(found.uids) == 3 and found.threshold is None
    assert {int(u[1:]) // 5 for u in found.uids} == {0, 1, 2}
    if tau == 1.0:  # then the medoid plays no part
        assert sorted(found.uids) == sorted(wanted)


def test_exactly_the_budget_is_kept_also_among_equal_sets(alone):
    """Ties include nothing here: NeuFS keeps one of each cluster."""
    ids = np.zeros((20, 3), np.int32) + np.arange(3)
    for fraction, k in ((0.2, 4), (0.5, 10), (1.0, 20)):
        assert len(run(ids, np.ones(20, np.float32), alone, fraction).uids) == k
    empty = np.full((20, 3), -1, np.int32)  # every distance but to itself is 1
    assert len(run(empty, np.ones(20, np.float32), alone, 0.25).uids) == 5


def test_length_control_acts_on_the_quality(alone):
    """s = T but for one question; with all sets equal only quality decides."""
    ids, lengths = np.zeros((10, 1), np.int32), np.exp(np.linspace(1, 4, 10))
    counts = 100 * np.log(lengths)
    counts[2] += 40
    assert run(ids, counts, alone, 0.1, tau=1.0, lengths=lengths).uids == ["q09"]
    assert run(ids, counts, alone, 0.1, tau=1.0, lengths=lengths, length_control="residual").uids == ["q02"]
