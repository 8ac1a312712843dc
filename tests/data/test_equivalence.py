"""Votes count equivalent answers as one: transitively, and whatever the order in which they were given."""

import itertools
import operator

from hypothesis import given
from hypothesis import strategies as st

from nopsd.data.equivalence import unified
from nopsd.data.majority import majority


def near(a: str, b: str) -> bool:
    """One way only, and not transitive."""
    return int(b) - int(a) == 1


@given(st.lists(st.one_of(st.none(), st.integers(0, 9).map(str)), max_size=8))
def test_classes_are_runs_of_neighbours_in_any_order(answers):
    found = unified(answers, near)
    given_numbers = {int(a) for a in answers if a is not None}
    for (a, x), (b, y) in itertools.combinations(zip(answers, found), 2):
        if a is None or b is None:
            continue
        low, high = sorted((int(a), int(b)))
        joined = all(number in given_numbers for number in range(low, high + 1))
        assert (x == y) == joined
    assert [x is None for x in found] == [a is None for a in answers]


@given(st.lists(st.integers(0, 9).map(str), max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_the_answers_changes_no_class(answers, random):
    places = list(range(len(answers)))
    random.shuffle(places)
    shuffled = unified([answers[place] for place in places], near)
    assert shuffled == [unified(answers, near)[place] for place in places]


def test_equal_answers_alone_are_left_as_they_are():
    answers = ["b", None, "a", "b"]
    assert unified(answers, operator.eq) == answers


def test_a_class_wins_the_vote_that_none_of_its_forms_would():
    answers = ["1", "5", "5", "2", "2", "3"]
    assert majority(answers)[0] == "5"
    assert majority(unified(answers, near)) == ("2", 4)
