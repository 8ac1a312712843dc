"""nopsd.evaluation.judge: the answer key is read once, when needed, and judges as evaluation does."""

import pytest

from nopsd.config import load_config
from nopsd.errors import DataError
from nopsd.evaluation.judge import Judge

KEY = {"q1": "A", "q2": "B", "text": " Forty Two. ", "blank": " "}


@pytest.fixture
def judge(monkeypatch):
    """A judge of four samples a question, and how often its key was read."""
    judge = Judge(load_config("lab", ["eval.n=4", "eval.bootstrap=0"]))
    judge.reads = []
    monkeypatch.setattr("nopsd.evaluation.judge.load_run_answers", lambda data: judge.reads.append(data) or KEY)
    return judge


def test_the_key_is_read_once_and_not_without_need(judge, make_question, make_rollouts, tagged):
    """Breaks if a data set is read again for every domain, or answers are opened where nothing is judged."""
    judge.check({})
    assert judge.evaluate({}, []) == {} and not judge.reads
    tests = {"bio": [make_question("q1")], "chem": [make_question("q2", "chem")]}
    rollouts = [*make_rollouts("q1", tagged("AAAB")), *make_rollouts("q2", tagged("AAAB"))]
    judge.check(tests)
    results = judge.evaluate(tests, rollouts)
    assert [r.metrics["avg"] for r in results.values()] == [0.75, 0.25] and len(judge.reads) == 1


def test_questions_without_a_usable_answer_are_refused_or_left_out(judge, make_question):
    """Breaks if a comparison judges questions that have no answer."""
    questions = [make_question("q1"), make_question("blank"), make_question("unknown")]
    assert [q.uid for q in judge.known(questions)] == ["q1"]
    with pytest.raises(DataError, match="question blank has options but no answer"):
        judge.check({"bio": questions})


def test_pool_shares_are_of_all_samples_and_of_known_answers_alone(judge, make_question, make_rollouts, tagged):
    """Breaks if the diagnostics count unread responses out, or unknown questions as wrong."""
    pool = [make_question("q1"), make_question("unknown"), make_question("text", options=())]
    rollouts = [
        *make_rollouts("q1", tagged("AB-A")),
        *make_rollouts("unknown", tagged("AAAA")),
        *make_rollouts("text", ["<answer>forty  two</answer>", "<answer>41</answer>"]),
    ]
    assert judge.pool_correctness(pool, rollouts) == {"q1": 0.5, "text": 0.5}
