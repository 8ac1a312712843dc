"""What the loop of GRPO works with: beside a training run's, the questions and the frozen reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nopsd.data.records import Question
from nopsd.train.reference import Reference
from nopsd.train.state import TrainingRun


@dataclass(kw_only=True)
class Reinforcement(TrainingRun):
    """`questions` tell how an answer is read from a response's text; they hold none themselves."""

    questions: Mapping[str, Question]
    think_open: bool = False  # the prompt ends inside a think block
    reference: Reference | None = None  # with grpo.kl_coef above 0
