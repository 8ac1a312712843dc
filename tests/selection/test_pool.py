"""What a selector is handed: each column belongs to its own question, in whatever order they come."""

import numpy as np
import pytest

from nopsd.errors import ConfigError, DataError
from nopsd.selection.pool import make_pool


def pool(**more):
    return make_pool(
        ["q2", "q0", "q1"],
        np.array([20, 0, 10]),
        np.array([2, 5, 1]),
        np.array([True, False, False]),
        ["b", "a", "a"],
        {"nait": np.array([0.2, 0.0, 0.1], np.float32)},
        **more,
    )


def test_columns_follow_their_questions_into_ascending_order():
    """A column in the order of the files would score one question by another's response."""
    made = pool()
    assert made.uids == ["q0", "q1", "q2"] and made.domains == ["a", "a", "b"]
    assert made.counts.tolist() == [0, 10, 20] and made.lengths.tolist() == [5, 1, 2]
    assert made.truncated.tolist() == [False, False, True]
    assert (
        made.column("nait").dtype == np.float64 and made.column("nait").tolist() == np.float32([0, 0.1, 0.2]).tolist()
    )
    part = made.rows(np.array([2, 0]), budget=1)
    assert part.uids == ["q2", "q0"] and part.counts.tolist() == [20, 0] and part.budget == 1
    assert part.column("nait").tolist() == np.float32([0.2, 0]).tolist() and part.numbers.tolist() == [2, 0]


def test_distances_are_asked_for_by_places_in_the_whole_pool():
    """Places within a domain would be the distances of other questions."""
    asked = []
    part = pool(pairs=lambda numbers, clusters: asked.append((numbers.tolist(), clusters))).rows(np.array([1, 2]), 7)
    part.distances()
    assert asked == [([1, 2], 7)]
    with pytest.raises(ConfigError, match="there are none here: run it in the select stage"):
        pool().distances()


def test_a_column_that_is_not_there_is_named_with_what_is():
    with pytest.raises(DataError, match="column seq_nll, and there are nait.*--redo signals"):
        pool().column("seq_nll")
