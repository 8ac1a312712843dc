"""The label-free probe: its numbers by hand."""

import random

import pytest

from nopsd.data.reading import AnswerReader
from nopsd.data.records import Question
from nopsd.rollout.types import Rollout
from nopsd.train.metrics import probe_metrics, repetition


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


def naive(ids: list[int], n: int) -> float:
    grams = [ids[i : i + n] for i in range(len(ids) - n + 1)]
    return sum(grams.count(gram) > 1 for gram in grams) / len(grams) if grams else 0.0


def test_repeated_and_distinct_4grams_against_counting_by_hand():
    """Broken if the first occurrence isn't counted, responses are mixed up, or short ones divide by zero."""
    assert repetition([[1, 2, 3, 4, 5, 1, 2, 3, 4]])[0] == pytest.approx(2 / 6)
    assert repetition([[7] * 50])[0] == 1.0 and repetition([list(range(50))])[0] == 0.0
    assert repetition([[1, 2, 3], [], [7] * 5])[0] == pytest.approx(1 / 3)
    assert repetition([[1, 2, 3, 4], [1, 2, 3, 4]])[0] == 0.0  # alike, but neither repeats itself
    assert repetition([[1, 2, 3, 4], [1, 2, 3, 4]])[1] == 0.5 and repetition([[1], []])[1] == 1.0
    source = random.Random(0)
    responses = [[source.randrange(3) for _ in range(source.randrange(40))] for _ in range(20)]
    assert repetition(responses)[0] == pytest.approx(sum(naive(r, 4) for r in responses) / 20)
