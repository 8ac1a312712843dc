"""The line after sampling: a limit that is too low must be seen before a model is trained on what is left."""

from nopsd.data.reading import AnswerReader
from nopsd.reporting.unfinished import of_metrics, of_rollouts
from nopsd.rollout.types import Rollout
from tests.data.asked import CHOICE

FINE, LOST = "<answer>A</answer>", "and so on"


def responses(*pairs):
    return [Rollout("c", i, [1], [2], text, reason, 0) for i, (text, reason) in enumerate(pairs)]


def line(*pairs):
    return of_rollouts(responses(*pairs), {"c": CHOICE}, AnswerReader(), "zero_shot.max_new", 160)


def test_cut_answers_name_the_limit():
    said = line((FINE, "stop"), (LOST, "length"), (FINE, "length"), (FINE, "stop"))
    assert said == (
        "50% of the answers did not finish in 160 tokens, and 25% of all can't be read: raise zero_shot.max_new, "
        "or ask for shorter ones (prompt.instruction)"
    )


def test_finished_answers_in_another_form_name_the_prompt():
    assert "50% of the answers can't be read though they finished" in line((FINE, "stop"), (LOST, "stop"))


def test_nothing_is_said_where_nearly_all_is_well():
    assert line(*[(FINE, "stop")] * 40, (LOST, "length")) is None and line() is None


def test_an_evaluations_domains_count_by_their_responses():
    metrics = {
        "a": {"questions": 30, "samples": 2, "truncated": 0.0, "unparsed": 0.0},
        "b": {"questions": 10, "samples": 2, "truncated": 0.4, "unparsed": 0.2},
    }
    assert of_metrics(metrics, "eval.max_new", 8).startswith("10% of the answers did not finish in 8 tokens, and 5%")
    assert of_metrics({}, "eval.max_new", 8) is None
