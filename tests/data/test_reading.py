"""One reader for votes, rewards and the evaluation: what a run calls an answer, and which answers it takes for one."""

import pytest

from nopsd.config import load_config
from nopsd.data.reading import AnswerReader, answer_reader
from nopsd.errors import ConfigError
from nopsd.evaluation.evaluate import evaluate_domain
from nopsd.rollout.types import Rollout
from nopsd.signals.agreement import agreement, answers_of
from nopsd.train.algorithms.rewards import majority_rewards
from tests.data.asked import CHOICE, QUESTION

FORMS = ["<answer>1/2</answer>", r"\boxed{\frac12}", "so it is 0.5", "<answer>7</answer>", "<answer>7</answer>"]


def reader(*settings, mode="lenient", think_open=False):
    return answer_reader(load_config("lab", list(settings)), mode, think_open)


def rollouts(texts, reason="stop"):
    return [Rollout("q", i, [1], [2], text, reason, 0) for i, text in enumerate(texts)]


def test_the_defaults_read_as_before():
    """Else numbers of earlier runs change."""
    assert reader() == AnswerReader()


def test_votes_rewards_and_evaluation_count_equal_numbers_as_one():
    """Else the vote goes to the answer that happens to be written one way."""
    numeric, questions, given = reader("prompt.answer=number"), {"q": QUESTION}, rollouts(FORMS)
    assert agreement(answers_of(given, questions, numeric))["majority_conf"].tolist() == pytest.approx([0.6])
    assert majority_rewards(["q"], given, 5, questions, numeric).values == [1, 1, 1, 0, 0]
    config = load_config("lab", ["eval.n=5"]).eval
    (row,) = evaluate_domain([QUESTION], {"q": ".50"}, {"q": given}, config, numeric).rows
    assert (row.correct, row.majority == row.gold, row.share) == ([True] * 3 + [False] * 2, True, 0.6)


def test_votes_within_a_tolerance_are_judged_by_the_same_judge():
    loose = reader("prompt.answer=number", "answer.tolerance=0.01")
    given = rollouts(["<answer>0.333</answer>", "<answer>1/3</answer>", "<answer>4</answer>"])
    answers = loose.answers(given, QUESTION)
    assert answers[0] == answers[1] != answers[2]


@pytest.mark.parametrize(
    ("settings", "text", "answer"),
    [
        (["answer.judge=exact"], "<answer> Oslo. </answer>", "Oslo."),
        (["answer.judge=text"], "<answer> Oslo. </answer>", "oslo"),
        (["prompt.answer=letter"], "the answer is (B)", "B"),
        (["prompt.answer_format=box"], r"<answer>no</answer> \boxed{\text{Oslo}}", "oslo"),
        (["prompt.answer_format=line"], "It is cold.\n**Answer:** Oslo\n", "oslo"),
        (["prompt.answer_format=line"], "It is cold. Oslo", None),
        (["prompt.answer_format=bare"], "Oslo.", "oslo"),
        ([], "Oslo.", None),
    ],
)
def test_where_an_answer_stands_is_the_users(settings, text, answer):
    assert reader(*settings).read_text(text, QUESTION) == answer


def test_strict_reads_the_form_that_was_asked_for_alone():
    strict = reader("prompt.answer=number", "prompt.answer_format=box", mode="strict")
    assert strict.read_text(r"\boxed{3}", QUESTION) == "3" and strict.read_text("it is 3", QUESTION) is None


def test_options_decide_whatever_the_judge():
    assert reader("prompt.answer=number").read_text("<answer>B</answer> 3", CHOICE) == "B"


def test_what_an_unfinished_answer_counts_as():
    cut = rollouts(["<answer>A</answer> and so"], "length")
    assert reader().answers(cut, CHOICE) == ["A"]
    assert reader("answer.unfinished=none").answers(cut, CHOICE) == [None]


def test_an_unknown_judge_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="answer.judge=numerc.*did you mean numeric"):
        load_config("lab", ["answer.judge=numerc"])
