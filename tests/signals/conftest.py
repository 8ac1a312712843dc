"""Questions and their answers; the models and rollouts are those of tests/scoring.py."""

import importlib.util
from pathlib import Path

import pytest

from nopsd.data.records import Option, Question
from nopsd.rollout.types import Rollout
from tests.scoring import build_model, engine, make_rollouts, unsharded  # noqa: F401 (fixtures)


@pytest.fixture(scope="session")
def question():
    """A question with options A to D."""
    return lambda uid: Question(uid, "d", "s", f"text {uid}", tuple(Option(c, f"option {c}") for c in "ABCD"))


@pytest.fixture(scope="session")
def answered():
    """Rollouts of a question that give these answers; None: nothing that can be read."""

    def make(uid, answers):
        texts = ["thinking only" if a is None else f"so <answer>{a}</answer>" for a in answers]
        return [Rollout(uid, i, [5, 6], [7, 8], text, "stop", 0) for i, text in enumerate(texts)]

    return make


@pytest.fixture(scope="session")
def oracle():
    """The module oracle.py beside this file."""
    spec = importlib.util.spec_from_file_location("signals_oracle", Path(__file__).with_name("oracle.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
