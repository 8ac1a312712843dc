"""Draws by seed and name: if they change, a run's random selection or medoids can't be made again."""

import math

import numpy as np

from nopsd.selection.seeded import generator, hash_uniform


def test_a_draw_depends_on_seed_and_each_name_alone():
    """Names are not run together: ("a", "bc") and ("ab", "c") are two questions."""
    keys = [(0, "a", "bc"), (0, "ab", "c"), (0, "abc"), (1, "a", "bc"), (0, "bc", "a")]
    for draw in (hash_uniform, lambda *key: generator(*key).random()):
        drawn = [draw(*key) for key in keys]
        assert len(set(drawn)) == len(keys) and drawn == [draw(*key) for key in keys]


def test_draws_are_uniform():
    """Each quarter of 4,000 draws has 1,000 with a standard deviation of 27."""
    drawn = np.array([hash_uniform(3, "select", f"q{i}") for i in range(4_000)])
    assert drawn.min() >= 0 and drawn.max() < 1
    assert np.abs(np.histogram(drawn, 4, (0, 1))[0] - 1_000).max() < 5 * math.sqrt(4_000 * 3 / 16)


def test_the_first_draw_stays_what_it_was():
    """A selection made with an earlier version is made again to the question."""
    assert hash_uniform(0, "select", "q0") == 0.28335672031765324
