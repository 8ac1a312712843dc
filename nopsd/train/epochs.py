"""How many steps a training has, where its config counts in passes over the questions (SPEC §8). Pure.

In: the config and how many questions are trained on. Out: the config with `steps` and `warmup` settled.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

from nopsd.config import TrainConfig


def settled(train: TrainConfig, questions: int) -> TrainConfig:
    """`steps` of `epochs`, every question so often at least; `warmup` of `warmup_ratio`, rounded up as transformers'
    trainer does. What is null leaves `steps` or `warmup` as it is."""
    steps, warmup = train.steps, train.warmup
    if train.epochs is not None:
        steps = max(1, math.ceil(Fraction(str(train.epochs)) * questions / train.batch))
    if train.warmup_ratio is not None:
        warmup = math.ceil(Fraction(str(train.warmup_ratio)) * steps)
    return replace(train, steps=steps, warmup=warmup)
