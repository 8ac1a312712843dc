"""Examples of the report: each is of the kind that it is shown as, and no question is shown twice."""

import pytest

from nopsd.data.records import Question
from nopsd.evaluation.unlabelled import AnswerRow
from nopsd.reporting.examples import LONGEST, Answers, examples

LETTERS = {"fixed": ("BBBA", "AAAA"), "broken": ("AAAB", "BBBB"), "changed": ("CCCC", "DDDD"), "same": ("AAAA", "AAAA")}


def texts(rows):
    return {r.uid: [f"{r.uid} says {a}" for a in r.answers] for r in rows}


@pytest.fixture
def judged(make_judged):
    before, after = (make_judged("q", [pair[side] for pair in LETTERS.values()]).rows for side in (0, 1))
    return before, after


def test_every_kind_is_what_it_says(judged):
    """Broken if a question that went wrong is shown as one that went right, or with another's response."""
    before, after = judged
    questions = {r.uid: Question(r.uid, "d", "s", f"What of {r.uid}?") for r in before}
    found = {e.kind: e for e in examples(questions, Answers(before, after, texts(before), texts(after)), each=1)}
    assert {kind: e.uid for kind, e in found.items()} == {
        "fixed": "q0",
        "broken": "q1",
        "changed": "q2",
        "longest": "q3",
    }
    assert found["fixed"].gold == "A" and found["fixed"].answers[0] == "B (75% of the votes)"
    assert (found["broken"].before, found["broken"].after) == ("q1 says A", "q1 says B")


def test_without_labels_nothing_is_called_right_and_unread_answers_are_shown():
    rows = [
        [AnswerRow("a", answers, m, 0.5, ["stop"] * 2, [3, 9], 0.0)]
        for answers, m in ((["x", "y"], "x"), ([None, None], None))
    ]
    responses = {"a": ["short", "z" * (2 * LONGEST)]}
    (found,) = examples({"a": Question("a", "d", "s", "?")}, Answers(*rows, responses, responses))
    assert found.kind == "changed" and found.gold is None and found.answers[1].startswith("none read")
    same = Answers(rows[1], rows[1], responses, responses)
    assert [e.kind for e in examples({"a": Question("a", "d", "s", "?")}, same)] == ["unparsed"]
