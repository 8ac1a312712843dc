"""Selectors of one column of the signals: each one's direction on an example worked out by hand."""

import numpy as np
import pytest

from nopsd.errors import DataError
from nopsd.selection.selectors import SELECTORS
from tests.selection.selectors.example import BY_COLUMN, COLUMN, UIDS, chosen


@pytest.mark.parametrize("name", BY_COLUMN)
def test_selectors_of_a_column_keep_the_right_end_of_it(name):
    """A flipped direction would train on the worst questions, and nothing else would show it."""
    column, keep = BY_COLUMN[name]
    found = chosen(name, {column: COLUMN})
    assert found.uids == (["q1", "q4"] if keep == "high" else ["q2", "q0"])
    assert found.threshold == pytest.approx(0.7 if keep == "high" else 0.2)
    assert found.scores == pytest.approx(dict(zip(UIDS, COLUMN)))
    assert SELECTORS[name].needs == (column,)


@pytest.mark.parametrize("name", ["token_entropy", "majority_conf"])
def test_ties_and_questions_without_scored_positions_are_treated_as_for_counts(name):
    """Every selector has the same rules: include or exact, never a question with nothing scored, floor(b N)."""
    tied = {name: [0.5, 0.5, 0.5, 0.1, 0.9]}
    worst, best = ("q4", "q3") if SELECTORS[name].keep == "low" else ("q3", "q4")
    assert chosen(name, tied).uids == [best, "q0", "q1", "q2"]
    assert chosen(name, tied, ties="exact").uids == [best, "q0"]
    assert best not in chosen(name, tied, lengths=[1, 1, 1, *((0, 1) if best == "q3" else (1, 0))]).uids
    assert worst not in chosen(name, tied).uids


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_refused_by_name(value):
    """NaN sorts last: it would silently be kept by a selector of the highest, or drop a question unseen."""
    with pytest.raises(
        DataError, match=r"select.selector=nad_agreement has no score for 1 of 5.*question q2 is .*zero_shot.n"
    ):
        chosen("nad_agreement", {"agreement": [0.1, 0.2, value, 0.3, 0.4]})
    without = chosen("nad_agreement", {"agreement": [0.1, 0.2, value, 0.3, 0.4]}, lengths=[1, 1, 0, 1, 1])
    assert without.uids == ["q4", "q3"]  # q2 is no candidate


def test_learnability_is_greatest_where_the_vote_is_split():
    """Counts of 4, 8, 1, 6, 2 of 8: p(1 − p), so that an always right and an all-different question both go last."""
    shares = np.array([4, 8, 1, 6, 2]) / 8
    found = chosen("learnability", {"majority_conf": shares}, 0.6)
    assert found.uids == ["q0", "q3", "q4"]
    assert [found.scores[uid] for uid in UIDS] == [0.25, 0, 0.109375, 0.1875, 0.1875]


def test_a_column_that_no_stage_made_is_named():
    with pytest.raises(DataError, match="column token_entropy, and there are agreement.*signals"):
        chosen("token_entropy", {"agreement": COLUMN})
