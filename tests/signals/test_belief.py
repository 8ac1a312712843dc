"""Belief shift: the divergence against scipy, the sampling against a generator that counts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from nopsd.config import SamplingConfig
from nopsd.engine.distributed import Ranks
from nopsd.errors import DataError, ServerError
from nopsd.rollout.types import Rollout
from nopsd.signals.agreement import answers_of
from nopsd.signals.belief import (
    answer_distribution,
    belief_shift,
    broadcast_with_heartbeat,
    jensen_shannon,
    sample_demonstrated,
)

OUTCOMES = ["A", "B", "C", None]
ANSWERS = st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=12)


@given(ANSWERS, ANSWERS)
def test_divergence_equals_scipys(without, demonstrated):
    """scipy gives its square root, natural log."""
    rows = [[answers.count(o) / len(answers) for o in OUTCOMES] for answers in (without, demonstrated)]
    p, q = answer_distribution(without), answer_distribution(demonstrated)
    found = jensen_shannon(p, q)
    assert found == pytest.approx(jensenshannon(*rows) ** 2, abs=1e-12)
    assert found == jensen_shannon(q, p) and 0 <= found <= math.log(2) + 1e-12


def test_unread_answers_are_an_outcome():
    """Demonstrations that merely make answers unreadable shift the belief too; left out, they would not show."""
    assert belief_shift({"q": ["A", "A"]}, {"q": [None, None]})[0] == pytest.approx(math.log(2))
    assert belief_shift({"q": ["A", None]}, {"q": [None, "A", None, "A"]})[0] == 0


def test_a_question_without_answers_is_refused():
    with pytest.raises(DataError, match="question q has no sampled answers"):
        belief_shift({"q": ["A"]}, {})


class Demonstrated:
    """A generator whose answer is the last prompt id's letter; dies after `lives` prompts."""

    def __init__(self, lives=999):
        self.lives, self.asked = lives, []

    def generate(self, prompts, uids, sampling, seed, expected_version=None, progress=None, finished=None, **more):
        found = []
        for uid, prompt in zip(uids, prompts, strict=True):
            if not self.lives:
                raise ServerError("killed")
            self.lives -= 1
            self.asked.append(uid)
            answer = f"<answer>{'ABCD'[prompt[-1]]}</answer>"
            found.append([Rollout(uid, k, prompt, [9], answer, "stop", expected_version) for k in range(sampling.n)])
            finished(len(found) - 1, found[-1])
            progress(len(found), len(uids))
        return found


def test_sampling_asks_for_belief_samples_and_survives_a_kill(question, answered, tmp_path):
    """A question asked twice wastes the server; a wrong n makes another distribution."""
    uids = [f"q{i:03d}" for i in range(200)]
    questions, prompts = [question(u) for u in uids], [[7, i % 3] for i in range(200)]
    arguments = (SamplingConfig(n=2, max_new=8), 5, 0, tmp_path)
    with pytest.raises(ServerError):
        sample_demonstrated(questions, prompts, Demonstrated(lives=128), *arguments)
    second, told = Demonstrated(), []
    found = sample_demonstrated(questions, prompts, second, *arguments, lambda done, total: told.append((done, total)))
    assert second.asked == uids[128:] and told[-1] == (200, 200)
    assert len(found) == 1000 and {r.sample for r in found} == set(range(5))
    pool = {q.uid: q for q in questions}
    without = answers_of([r for u in uids for r in answered(u, ["A", "A"])], pool)
    shift = belief_shift(without, answers_of(found, pool))
    assert np.allclose(shift[:3], [0, math.log(2), math.log(2)]) and shift.dtype == np.float32


def test_one_process_needs_no_sign():
    """Signs are for ranks that wait (see worker_signals.py); a failure reaches the caller as it is."""
    alone = Ranks(0, 1, torch.device("cpu"))
    assert broadcast_with_heartbeat(alone, lambda sign: sign() or [1, "a"], every_s=0) == [1, "a"]

    def fail(sign):
        raise DataError("as it is")

    with pytest.raises(DataError, match="as it is"):
        broadcast_with_heartbeat(alone, fail)
