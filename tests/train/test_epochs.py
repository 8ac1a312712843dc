"""Passes over the questions as steps."""

import pytest

from nopsd.config import TrainConfig
from nopsd.engine.student import lr_at
from nopsd.train.batches import batch_uids
from nopsd.train.planning import settled


@pytest.mark.parametrize(("questions", "batch", "epochs"), [(1600, 16, 1.0), (33, 4, 1.0), (7, 16, 2.0), (50, 8, 0.3)])
def test_every_question_comes_as_often_as_asked_and_no_whole_step_more(questions, batch, epochs):
    """A step too few leaves questions out of the only epoch."""
    steps = settled(TrainConfig(epochs=epochs, batch=batch), questions).steps
    assert steps * batch >= epochs * questions > (steps - 1) * batch
    if epochs == int(epochs):
        uids = [f"q{i}" for i in range(questions)]
        drawn = [uid for step in range(steps) for uid in batch_uids(uids, step, batch, 0)]
        assert min(drawn.count(uid) for uid in uids) >= epochs


def test_decimal_fractions_count_as_written():
    """0.1 of 160 questions is 16, not 16.000…1 and a step more."""
    assert settled(TrainConfig(epochs=0.1, batch=16), 160).steps == 1
    assert settled(TrainConfig(epochs=0.7, batch=1), 10).steps == 7


def test_warmup_as_a_share_of_the_steps():
    """TTRL's 3 %: the rate rises over so many of the steps and ends at zero with the last."""
    train = settled(TrainConfig(epochs=1, batch=16, warmup_ratio=0.03, schedule="cosine", lr=1.0), 1600)
    assert (train.steps, train.warmup) == (100, 3)
    assert [lr_at(step, train) for step in (0, 2, 3)] == pytest.approx([1 / 3, 1.0, 1.0])
    assert lr_at(100, train) == pytest.approx(0.0)


def test_what_is_null_leaves_steps_and_warmup():
    assert settled(TrainConfig(steps=5, warmup=2), 1000) == TrainConfig(steps=5, warmup=2)
