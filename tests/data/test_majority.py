"""One rule for every vote: a question must not have one majority in training and another in evaluation."""

from nopsd.data.majority import majority


def test_ties_go_to_the_answer_given_first_and_unread_answers_have_no_vote():
    assert majority(["B", "A", "A", "B"]) == ("B", 2)
    assert majority([None, "C", None, None]) == ("C", 1)
    assert majority([None, None]) == (None, 0)
    assert majority([]) == (None, 0)
