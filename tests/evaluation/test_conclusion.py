"""The conclusion without labels: its direction follows the figures, and it never promises accuracy."""

import numpy as np
import pytest

from nopsd.evaluation.conclusion import BETTER, LIMITS, UNKNOWN, WORSE, conclude, room_to_gain, teacher_gain
from nopsd.evaluation.unlabelled import compare
from tests.evaluation.test_unlabelled import row


def test_a_teacher_without_anything_to_say_is_warned_of():
    """Broken if a run whose demonstrations were cut away trains on nothing without a word."""
    far, same = ({"teacher_kl": kl, "by_question": {"a": kl, "b": kl}} for kl in (0.2, 2e-4))
    assert len(teacher_gain(far)) == 1 and "0.2000 nats a token on its own answers to 2" in teacher_gain(far)[0]
    warned = teacher_gain(same)[0]
    assert "nothing to distil" in warned and "WARNING" in warned and teacher_gain({}) == []


def policy(rate, questions=150, right="A", seed=0, unread=0.0, k=8):
    """Rows of a model that gives a question's own answer at this rate, else one of three others."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(questions):
        letters = [right if rng.random() < rate else str(rng.choice(list("BCD"))) for _ in range(k)]
        rows.append(row(f"q{i}", ["-" if rng.random() < unread else letter for letter in letters]))
    return rows


@pytest.mark.parametrize(
    ("after", "direction", "begins"),
    [
        (policy(0.9, seed=1), BETTER, "Likely better: it moved towards"),
        (policy(0.3, seed=2), WORSE, "Likely worse: it moved away"),
        (policy(0.6, seed=3), UNKNOWN, "No direction can be seen"),
        (policy(0.9, seed=4, unread=0.2), WORSE, "Likely worse: answers that can't be read rose from 0.0%"),
    ],
)
def test_the_direction_follows_the_bases_majority_and_the_form(after, direction, begins):
    """Broken if a collapse is praised, or noise is called a gain."""
    found = conclude(compare(policy(0.6), after, 500, 0))
    assert found.direction == direction and found.sentences[0].startswith(begins)
    assert found.sentences[-len(LIMITS) :] == list(LIMITS)


def test_a_model_that_is_sure_of_another_answer_is_not_called_better():
    """Vote share up, and all of it wrong: agreement alone would have said better."""
    comparison = compare(policy(0.6), policy(0.95, right="B", seed=5), 500, 0)
    assert comparison.figures["vote_share"].change.low > 0.2
    assert conclude(comparison).direction == WORSE


def test_one_answer_for_every_question_is_told():
    rng = np.random.default_rng(0)
    before = [row(f"q{i}", [str(rng.choice(list("ABCD")))] * 4) for i in range(40)]
    told = conclude(compare(before, [row(f"q{i}", "CCCC") for i in range(40)], 100, 0)).sentences
    assert any(line.startswith("Collapse: one answer is the majority of 100.0%") for line in told)


def test_one_answer_a_question_gives_no_direction():
    found = conclude(compare([row("a", "A"), row("b", "B")], [row("a", "B"), row("b", "B")], 50, 0))
    assert found.direction == UNKNOWN and "eval.n" in found.sentences[0]


@pytest.mark.parametrize(
    ("rows", "warned"),
    [
        (policy(1.0), "next to nothing to gain"),
        (policy(0.6, unread=0.9), "can't be read"),
        (policy(0.6), None),
    ],
)
def test_what_could_be_gained_is_told_before_training(rows, warned):
    told = room_to_gain(rows)
    assert (told[0].startswith("WARNING") and warned in told[0]) if warned else len(told) == 1
