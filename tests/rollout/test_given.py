"""Given responses as rollouts: if these fail, instruction rows are scored on other tokens than they hold."""

import pytest

from nopsd.data.records import Question
from nopsd.errors import ConfigError
from nopsd.rollout.given import given_rollouts
from nopsd.rollout.stage import FILE
from nopsd.rollout.types import read_rollouts

QUESTIONS = [Question(uid, "d", "instructions", "x") for uid in ("long", "short", "empty")]
PROMPTS = [[1, 2, 3], [1, 2], [1]]
RESPONSES = {"empty": "", "short": "ab", "long": "abcdefgh"}


def given(folder, samples=1, progress=None):
    def encode(text):
        return [ord(c) for c in text]

    return given_rollouts(QUESTIONS, PROMPTS, RESPONSES, encode, samples, 8, folder, progress)


def test_responses_stand_behind_their_prompts(tmp_path):
    seen = []
    rollouts = given(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert [(r.uid, r.sample, r.prompt_ids) for r in rollouts] == [
        ("long", 0, [1, 2, 3]),
        ("short", 0, [1, 2]),
        ("empty", 0, [1]),
    ]
    assert [bytes(r.response_ids).decode() for r in rollouts] == ["abcde", "ab", ""], "8 tokens is the window"
    assert [r.finish_reason for r in rollouts] == ["length", "stop", "stop"]
    assert [r.text for r in rollouts] == ["abcdefgh", "ab", ""] and {r.policy_version for r in rollouts} == {0}
    assert read_rollouts(tmp_path / FILE) == rollouts and seen[-1] == (3, 3)


def test_several_samples_are_refused(tmp_path):
    """There is one response: a selector that compares several would compare it with itself."""
    with pytest.raises(ConfigError, match="zero_shot.n=8: .*zero_shot.n=1"):
        given(tmp_path, samples=8)
    assert not list(tmp_path.iterdir())
