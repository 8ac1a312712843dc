"""Which stages a command brings up to date, and which a changed setting would make again."""

import json
from types import SimpleNamespace

import pytest

from nopsd.config import load_config
from nopsd.files import sha256_json
from nopsd.run.session import Session
from nopsd.stages.registry import STAGES

BEFORE_SIGNALS = {"data", "rollout", "evaluate_base", "neurons"}


class Made(Session):
    """A run whose artefacts are other ones exactly if what they are made from is: each is its own fingerprint."""

    def __init__(self, *overrides):
        super().__init__(load_config("lab", overrides))
        self.model = SimpleNamespace(hash="m", tokenizer="t", generation="g")
        self.run = SimpleNamespace(stage_hash=self.stage_hash, tests=dict, holdout=list)
        self.hashes = {}

    def stage_hash(self, name):
        if name not in self.hashes:
            self.hashes[name] = sha256_json(STAGES.fingerprint(self, STAGES[name]))
        return self.hashes[name]


@pytest.fixture
def redone(tmp_path):
    """Names of the stages that settings make other ones."""
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "x"}\n')

    def changed(*overrides, instead_of=()):
        data = ("data.name=file", f"data.path={path}", *instead_of)
        before, after = Made(*data), Made(*data, *overrides)
        return {stage.name for stage in STAGES if before.stage_hash(stage.name) != after.stage_hash(stage.name)}

    return changed


def test_how_work_is_shared_makes_nothing_again(redone):
    """Artefacts are equal to the bit for each of these: a user may change machines in the middle of a run."""
    sharing = (
        "context_exchange=gather_all",
        "block_mib=7",
        "ranks=1",
        "threads=2",
    )
    assert redone(*(f"dist.{setting}" for setting in sharing)) == set()


def test_another_choice_leaves_the_scores_alone(redone):
    """The neuron stage costs most: trying selectors and contexts must never repeat it."""
    changed = redone("select.selector=random", "select.fraction=0.5", "context.retriever=random", "context.m=1")
    assert not changed & BEFORE_SIGNALS and {"select", "train", "evaluate", "report"} <= changed
    assert "signals" not in changed, "neither choice needs any"
    changed = redone("select.selector=token_entropy")
    assert not changed & BEFORE_SIGNALS and {"signals", "select"} <= changed


def test_signal_settings_leave_earlier_stages_alone(redone):
    changed = redone(
        "signal.logit_chunk=7",
        "signal.max_batch_tokens=7",
        "signal.reference_limit=7",
        instead_of=["select.selector=token_entropy"],
    )
    assert not changed & BEFORE_SIGNALS and {"signals", "select"} <= changed


def test_settings_of_the_model_and_the_scores(redone):
    changed = redone("neuron.k=77")
    assert {"neurons", "select"} <= changed and not changed & {"data", "rollout", "evaluate_base"}
    changed = redone("model.dtype=bfloat16")
    assert {"rollout", "evaluate_base", "neurons", "train"} <= changed and "data" not in changed
    assert "neurons" in redone("zero_shot.temperature=0.1") and "select" not in redone("train.lr=1")
    assert "train" in redone("distill.beta=0.3") and "train" not in redone("distill.kernel=torch")  # rounding alone


def test_a_changed_given_response_is_another_data_set(tmp_path):
    """Responses are no part of the questions, whose hash alone would not see it."""
    path = tmp_path / "q.jsonl"
    settings = ["data.name=instructions", f"data.path={path}"]
    hashes = []
    for output in ("a", "b"):
        path.write_text(json.dumps({"instruction": "x", "output": output}) + "\n")
        hashes.append(Made(*settings).stage_hash("data"))
    assert hashes[0] != hashes[1]
