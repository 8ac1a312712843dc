"""tools/neighbor_subtasks.py: the share of neighbors of the same subtask is over questions, and length is a control."""

import pytest

from tools import neighbor_subtasks as tool


def test_the_share_is_the_mean_over_questions():
    subtasks = {"a": "x", "b": "x", "c": "y", "d": "y"}
    neighbors = {"a": ["b"], "b": ["a"], "c": ["a"], "d": ["a"]}
    rate, low, high = tool.same_subtask(neighbors, subtasks)
    assert rate == 0.5 and low == pytest.approx(0.0, abs=0.26) and high <= 1


def test_nearest_in_length_leaves_the_question_out():
    lengths = {"a": 10, "b": 11, "c": 30, "d": 12}
    assert tool.nearest_in_length(lengths, 2) == {"a": ["b", "d"], "b": ["a", "d"], "c": ["d", "b"], "d": ["b", "a"]}
