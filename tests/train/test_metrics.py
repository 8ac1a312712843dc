"""The label-free probe: its numbers by hand."""

import pytest

from nopsd.data.reading import AnswerReader
from nopsd.data.records import Question
from nopsd.rollout.types import Rollout
from nopsd.train.metrics import probe_metrics, response_metrics


def rollout(text: str, sample: int) -> Rollout:
    return Rollout("q", sample, [1], [2, 3], text, "stop", 0)


def test_by_hand():
    texts = ["<answer>one</answer>", "<answer>One.</answer>", "<answer>two</answer>", "no answer"]
    found = probe_metrics(
        [Question("q", "d", "s", "?")], [[rollout(t, i) for i, t in enumerate(texts)]], AnswerReader()
    )
    assert found == {
        "probe/distinct_answer_rate": 0.5,
        "probe/majority_share": 0.5,
        "probe/unparsed_share": 0.25,
        "probe/response_length": 2.0,
    }


def test_nothing_parsed_has_no_majority():
    found = probe_metrics(
        [Question("q", "d", "s", "?")], [[rollout("?", 0), rollout("", 1)]], AnswerReader(mode="strict")
    )
    assert found["probe/majority_share"] == 0.0 and found["probe/unparsed_share"] == 1.0


def test_words_of_doubt_are_counted_in_any_case():
    """Two of the first text's six words; "waiter" is none."""
    text = "Wait, the waiter said: perhaps 3 or 4."
    rollouts = [Rollout("q", 0, [1], [2, 3], text, "stop", 0), Rollout("q", 1, [1], [2], "So it is", "stop", 0)]
    assert response_metrics(rollouts[:1])["hedging_share"] == pytest.approx(2 / 6)
    assert response_metrics(rollouts)["hedging_share"] == pytest.approx(2 / 9)
    assert response_metrics([rollouts[1]])["hedging_share"] == 0
