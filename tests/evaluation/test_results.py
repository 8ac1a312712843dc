"""nopsd.evaluation.results: what moved between two evaluations, of the same questions alone."""

import pytest

from nopsd.errors import DataError
from nopsd.evaluation.results import fix_break


def test_fix_and_break_counts(make_evaluation):
    before = make_evaluation({"q1": "BBBB", "q2": "AAAA", "q3": "AAAA", "q4": "----"})
    after = make_evaluation({"q1": "AAAB", "q2": "BBBA", "q3": "AAAA", "q4": "----"})
    moved = fix_break(before, after)
    assert (moved.fixed, moved.broken, moved.stayed_right, moved.stayed_wrong) == (1, 1, 1, 1)


def test_only_the_same_questions_can_be_compared(make_evaluation):
    with pytest.raises(DataError, match="different questions"):
        fix_break(make_evaluation({"q1": "AAAA"}), make_evaluation({"q2": "AAAA"}))
