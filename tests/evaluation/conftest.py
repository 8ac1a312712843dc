"""Questions with the options A to D, responses with these letters, and their evaluation."""

import pytest

from nopsd.config import EvalConfig
from nopsd.data.records import Option, Question
from nopsd.evaluation.evaluate import evaluate_domain
from nopsd.rollout.types import Rollout

CONFIG = EvalConfig(n=4, bootstrap=50)
OPTIONS = tuple(Option(label, f"text {label}") for label in "ABCD")


def question(uid, domain="bio", options=OPTIONS):
    return Question(uid, domain, "test", f"what of {uid}?", options)


def rollouts(uid, texts, reason="stop"):
    return [Rollout(uid, i, [1, 2], list(range(len(t))), t, reason, 0) for i, t in enumerate(texts)]


def tag(letters):
    return ["no idea" if c == "-" else f"<answer>{c}</answer>" for c in letters]


def evaluate(letters_by_uid, key=None, config=CONFIG):
    questions = [question(uid) for uid in letters_by_uid]
    key = key or dict.fromkeys(letters_by_uid, "A")
    return evaluate_domain(questions, key, {u: rollouts(u, tag(x)) for u, x in letters_by_uid.items()}, config)


@pytest.fixture(scope="session")
def make_evaluation():
    return evaluate


@pytest.fixture(scope="session")
def make_question():
    return question


@pytest.fixture(scope="session")
def make_rollouts():
    return rollouts


@pytest.fixture(scope="session")
def tagged():
    return tag


@pytest.fixture(scope="session")
def settings():
    return CONFIG
