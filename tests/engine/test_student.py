"""The student's learning rate over the steps."""

import pytest

from nopsd.config import TrainConfig
from nopsd.engine.student import lr_at
from nopsd.train.planning import settled


def test_warmup_as_a_share_of_the_steps():
    """TTRL's 3 %: the rate rises over so many of the steps and ends at zero with the last."""
    train = settled(TrainConfig(epochs=1, batch=16, warmup_ratio=0.03, schedule="cosine", lr=1.0), 1600)
    assert (train.steps, train.warmup) == (100, 3)
    assert [lr_at(step, train) for step in (0, 2, 3)] == pytest.approx([1 / 3, 1.0, 1.0])
    assert lr_at(100, train) == pytest.approx(0.0)


def test_learning_rate_rises_over_the_warm_up_then_stays_or_falls_to_nothing():
    constant = TrainConfig(steps=30, lr=2.0, warmup=10)
    assert [lr_at(s, constant) for s in (0, 4, 9, 10, 29)] == [0.2, 1.0, 2.0, 2.0, 2.0]
    cosine = TrainConfig(steps=30, lr=2.0, warmup=10, schedule="cosine")
    assert lr_at(10, cosine) == 2.0 and lr_at(20, cosine) == pytest.approx(1.0) and lr_at(30, cosine) < 1e-9
    assert lr_at(0, TrainConfig(warmup=0, lr=2.0)) == 2.0
