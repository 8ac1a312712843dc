"""Agreement of a question's answers: label-free confidence, and whose answers may be shown."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nopsd.data.judges import AnswerJudge
from nopsd.data.reading import AnswerReader
from nopsd.data.records import Question
from nopsd.errors import DataError
from nopsd.evaluation.metrics import majority_answer
from nopsd.signals.agreement import agreement, answers_of, majority, together

ANSWERS = st.lists(st.sampled_from(["A", "B", "C", None]), min_size=1, max_size=8)


@given(ANSWERS)
def test_majority_is_evaluations(answers):
    """Two rules for ties would show demonstrations that disagree with the voted answer."""
    assert majority(answers)[0] == majority_answer(answers)[0]
    assert majority(answers)[1] / len(answers) == majority_answer(answers)[1]


@given(st.lists(st.lists(st.sampled_from(["A", "B", None]), min_size=4, max_size=4), max_size=5))
def test_columns_equal_plain_counting(rows):
    found = agreement({f"q{i}": row for i, row in enumerate(rows)})
    assert found["agrees"].shape == (len(rows), 4 if rows else 0)
    for i, row in enumerate(rows):
        counts = Counter(a for a in row if a)
        assert found["majority_conf"][i] == (max(counts.values()) / 4 if counts else 0)
        assert found["agrees"][i].sum() == (max(counts.values()) if counts else 0)


def test_unread_answers_stay_in_n_and_agree_with_no_one(answered, question):
    """Else a question that is mostly unreadable would pass for a sure one."""
    rollouts = [*answered("q2", ["B", "A", "A", "B"]), *answered("q1", [None, None, "C", None])]
    given_answers = answers_of(rollouts[::-1], {u: question(u) for u in ("q1", "q2")})
    assert given_answers == {"q1": [None, None, "C", None], "q2": ["B", "A", "A", "B"]}
    found = agreement(given_answers)
    assert found["majority_conf"].tolist() == [0.25, 0.5]
    assert found["agrees"].tolist() == [[0, 0, 1, 0], [1, 0, 0, 1]], "of equals the first seen"
    nothing = agreement({"q": [None, None]})
    assert nothing["majority_conf"].tolist() == [0] and not nothing["agrees"].any()


def test_an_answer_that_is_no_option_is_none(answered, question):
    assert answers_of(answered("q", ["E", "D"]), {"q": question("q")}) == {"q": [None, "D"]}


def test_a_rollout_of_no_question_is_refused(answered, question):
    with pytest.raises(DataError, match="q9 has rollouts and is not in the pool"):
        answers_of(answered("q9", ["A"]), {"q": question("q")})


def test_agreement_of_nothing():
    assert np.asarray(agreement({})["agrees"]).shape == (0, 0)


def test_two_sets_of_answers_share_their_classes():
    """Else a question would seem to shift its belief from 0.5 to 1/2."""
    reader = AnswerReader(AnswerJudge(lambda text, question: text, lambda a, b: {a, b} == {"0.5", "1/2"}))
    asked = {"q": Question("q", "d", "s", "?")}
    one, other = together({"q": ["0.5", "0.5"]}, {"q": ["1/2", "3", None]}, asked, reader)
    assert (one, other) == ({"q": ["0.5", "0.5"]}, {"q": ["0.5", "3", None]})
