"""Who teaches whom among a question's rollouts, on votes counted by hand."""

import pytest

from nopsd.config import UopsdConfig
from nopsd.train.algorithms.roles import both_sides, penalty, short_teaches_long

ANSWERS, LENGTHS = ("7", "7", None, "3", "7"), (50, 20, 90, 70, 40)


def test_the_shortest_that_agrees_teaches_the_longest_that_does_not():
    """Three of five agree, the unreadable one counted; it is the longest, and is neither shown nor trained on."""
    found = short_teaches_long(ANSWERS, LENGTHS, UopsdConfig(), "s")
    assert (found.reference, found.trained, found.share) == (1, (3,), 0.6)
    assert short_teaches_long(ANSWERS, LENGTHS, UopsdConfig(reference="longest"), "s").reference == 0


@pytest.mark.parametrize(
    ("answers", "tau", "taught"),
    [
        (("7", "7", "3", None, None), 0.5, False),  # .4
        (("7", "7", "3", None, None), 0.0, True),
        (("7", "7"), 0.5, False),  # nothing disagrees
        ((None, None), 0.0, False),
    ],
)
def test_questions_that_teach_nothing(answers, tau, taught):
    found = short_teaches_long(answers, [1] * len(answers), UopsdConfig(tau=tau), "s")
    assert (found is not None) == taught


def test_two_of_the_longest_and_ties_to_the_lower_sample():
    found = short_teaches_long(("1", "1", "2", "3", "2"), (5, 5, 8, 9, 8), UopsdConfig(tau=0, k=2), "s")
    assert (
        found.reference in (0, 2, 4)
        and short_teaches_long(("1", "1", "2"), (5, 5, 8), UopsdConfig(), "s").reference == 0
    )
    label_one = short_teaches_long(("1", "1", "1", "2", "3", "2"), (5, 5, 5, 8, 9, 8), UopsdConfig(tau=0, k=2), "s")
    assert label_one.trained == (4, 3)


def test_a_tied_vote_is_drawn_by_the_seed():
    """Uniform over seeds, the same for the same one: a resumed run must draw as the unbroken one."""
    drawn = [short_teaches_long(("7", "3"), (1, 1), UopsdConfig(), str(seed)).reference for seed in range(40)]
    assert set(drawn) == {0, 1}
    assert drawn == [short_teaches_long(("7", "3"), (1, 1), UopsdConfig(), str(seed)).reference for seed in range(40)]


@pytest.mark.parametrize(("agree", "picked"), [(60, (4, 4)), (62, (6, 2)), (64, (8, 0)), (2, (2, 6))])
def test_half_of_either_side_and_the_rest_from_the_other(agree, picked):
    answers = ["1"] * agree + [str(i + 2) for i in range(64 - agree)]
    found = both_sides(answers, list(range(64)), 8)
    assert (len(found.agreeing), len(found.disagreeing)) == picked
    assert list(found.agreeing) == list(range(picked[0])), "the shortest first"


def test_the_penalty_is_standardised_by_the_populations_deviation():
    """n − 1 in place of n would give −.5 of one in four."""
    assert penalty(1, 4) == pytest.approx(-0.57735, abs=1e-5)
    assert penalty(3, 4) == pytest.approx(-1.73205, abs=1e-5)


def test_a_vote_of_single_answers_pushes_nothing_down():
    """The shortest that can be read stands for it; equal counts of two take the shortest answer."""
    found = both_sides(("12", None, "3"), (9, 1, 4), 2)
    assert (found.label, found.agreeing, found.disagreeing, found.advantage) == ("3", (2,), (1,), 0.0)
    assert both_sides(("12", "12", "3", "3"), (1, 2, 3, 4), 2).label == "3"
    assert both_sides((None, None), (1, 2), 2) is None
