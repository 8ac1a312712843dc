"""`kcenter`: by hand, its weights, and its bound of twice the best radius on every small case."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nopsd.config import CHOICES, SelectConfig
from nopsd.errors import DataError
from nopsd.selection.pool import make_pool
from nopsd.selection.selectors import select
from nopsd.selection.selectors.kcenter import QUALITIES, farthest_first, quality_weights
from nopsd.selection.selectors.spaces import Space


def on_a_line(points):
    points = np.asarray(points, dtype=float)
    return Space(lambda places: 1 - np.abs(points[places][:, None] - points[None]), 0)


def pool(size, columns, **changed):
    values = {"counts": np.arange(size) + 1.0, "lengths": np.full(size, 5), **changed}
    uids = [f"q{i}" for i in range(size)]
    return make_pool(uids, values["counts"], values["lengths"], np.zeros(size, bool), columns=columns)


def test_farthest_first_by_hand():
    assert farthest_first(on_a_line([0, 1, 5, 6, 10]), np.ones(5), 0, 3) == [0, 4, 2]
    assert farthest_first(on_a_line([1, 1, 1]), np.ones(3), 1, 3) == [1, 0, 2]  # equal questions: by place, each once


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=7), st.data())
def test_the_radius_is_at_most_twice_the_best(points, data):
    """The guarantee that the method is taken for; a pick that isn't the farthest breaks it."""
    budget = data.draw(st.integers(1, len(points)))
    start = data.draw(st.integers(0, len(points) - 1))
    distances = np.abs(np.subtract.outer(points, points)).astype(float)

    def radius(chosen):
        return distances[:, list(chosen)].min(axis=1).max()

    picked = farthest_first(on_a_line(points), np.ones(len(points)), start, budget)
    assert len(set(picked)) == budget and picked[0] == start
    best = min(radius(chosen) for chosen in combinations(range(len(points)), budget))
    assert radius(picked) <= 2 * best


def test_weighted_in_the_space_of_representations_it_is_shift():
    """(s, D) of A (0, 2), B (2, 0), C (1, 1): A has the longest way, C's weight is log 2 sqrt(2 - sqrt 2), B's is 0."""
    columns = {"representation": np.array([[0, 2], [2, 0], [1, 1.0]]), "representation_shift": np.array([2, 0, 1.0])}
    config = SelectConfig("kcenter", 1.0, space="representation", quality="representation_shift")
    assert select(pool(3, columns), config).uids == ["q0", "q2", "q1"]
    assert quality_weights(pool(3, columns), config, "representation_shift") == pytest.approx(np.log([3, 1, 2]))
    alike = {**columns, "representation_shift": np.ones(3)}
    assert select(pool(3, alike), config).uids[:2] == ["q0", "q1"]  # now the farthest


def test_other_qualities_weigh_by_their_rank_among_the_pools():
    """Neuron counts are kept low: the fewest weigh most; equal scores weigh the same."""
    four = pool(4, {}, counts=np.array([7, 5, 5, 9]))
    assert quality_weights(four, SelectConfig(), "neuron_count").tolist() == [0.5, 1, 1, 0.25]
    assert quality_weights(four, SelectConfig(), "neuron_count_top").tolist() == [0.75, 0.5, 0.5, 1]
    with pytest.raises(DataError, match="select.quality=nad_agreement has no score for question q1"):
        quality_weights(pool(2, {"agreement": [1, np.nan]}), SelectConfig(), "nad_agreement")


def test_length_control_acts_on_the_weights():
    lengths = np.array([10, 20, 40, 80])
    counts = 3 * np.log(lengths) + [0, 0.1, 0, 0]
    four = pool(4, {}, counts=counts, lengths=lengths)
    plain = quality_weights(four, SelectConfig(), "neuron_count_top")
    controlled = quality_weights(four, SelectConfig(length_control="residual"), "neuron_count_top")
    assert plain.argmax() == 3 and controlled.argmax() == 1


def test_the_start_is_nearest_to_all_and_places_in_the_order_are_the_scores():
    columns = {"embedding": np.array([[1, 0], [0.8, 0.6], [0, 1], [0.7, 0.7]])}
    found = select(pool(4, columns), SelectConfig("kcenter", 0.5))
    assert found.uids[0] == "q3" and len(found.uids) == 2 and found.threshold == 1
    assert sorted(found.scores.values()) == [0, 1, 2, 2]


def test_the_configs_qualities_are_these():
    assert set(CHOICES["select.quality"]) - {None} == set(QUALITIES)
