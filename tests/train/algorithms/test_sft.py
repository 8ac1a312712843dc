"""Fine-tuning's data: which response a question is given in which epoch, and what is refused before an engine."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nopsd.config import Config, TrainConfig
from nopsd.errors import ConfigError, DataError
from nopsd.train.algorithms.sft import Finetuning, NegativeLogLikelihood
from nopsd.train.metrics import Clock
from nopsd.train.run import Step

RESPONSES = {"a": [[1], [2, 2], [3, 3, 3]], "b": [[4]], "c": [[5, 5]]}


def run_of(**train: Any) -> Any:
    prompts = {uid: [7, 8] for uid in RESPONSES}
    config = Config(train=TrainConfig(**{"batch": 2, **train}))
    return SimpleNamespace(config=config, selected=list(RESPONSES), student_prompts=prompts)


def test_the_loss_is_minus_the_log_prob():
    value, slope = NegativeLogLikelihood()(torch.tensor([-0.5, -2.0]), slice(0, 2))
    assert value.tolist() == [0.5, 2.0] and slope.tolist() == [-1.0, -1.0]


def test_each_epoch_draws_anew_and_a_resumed_run_draws_the_same():
    """Drawn by a state, a run resumed in the middle of an epoch would train on other responses."""
    algorithm = Finetuning(responses=RESPONSES)
    run = run_of()
    drawn = [algorithm.drawn(run, "a", epoch) for epoch in range(300)]
    assert drawn == [Finetuning(responses=RESPONSES).drawn(run_of(), "a", epoch) for epoch in range(300)]
    assert set(Counter(drawn)) == {0, 1, 2} and min(Counter(drawn).values()) > 60  # 100 with a deviation of 8
    assert drawn != [algorithm.drawn(run_of(seed=1), "a", epoch) for epoch in range(300)]


def test_a_step_that_ends_an_epoch_takes_each_question_in_its_own():
    """Of 3 questions in batches of 2, step 1 holds the last of epoch 0 and the first of epoch 1."""
    algorithm, run, asked = Finetuning(responses=RESPONSES), run_of(), []
    algorithm.drawn = lambda run, uid, epoch: asked.append((uid, epoch)) or 0  # type: ignore[method-assign]
    examples = algorithm.examples(run, Step(1, ["c", "a"], [], Clock()))
    assert asked == [("c", 0), ("a", 1)]
    assert [(e.uid, e.response) for e in examples] == [("c", [5, 5]), ("a", [1])]


@pytest.mark.parametrize("responses", [{}, {"b": []}, {"b": [[4], []]}], ids=["none", "no list", "an empty one"])
def test_questions_without_a_response_are_refused(responses: Any):
    """An empty response has no loss, and a question without one would end the run at its step."""
    with pytest.raises(DataError, match="question b has no prompt or an empty response"):
        Finetuning(responses={"a": [[1]], "c": [[5]], **responses}).check(run_of())


def test_nothing_selected_and_no_room_are_refused():
    Finetuning(responses=RESPONSES).check(run_of(micro_tokens=3))
    with pytest.raises(ConfigError, match=r"train.micro_tokens=2: the shortest prompt alone has 2 .* set 5 or more"):
        Finetuning(responses=RESPONSES).check(run_of(micro_tokens=2))
    empty = run_of()
    empty.selected = []
    with pytest.raises(DataError, match="no question has a response to train on"):
        Finetuning(responses=RESPONSES).check(empty)
