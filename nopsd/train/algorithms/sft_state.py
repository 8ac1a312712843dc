"""What the loop of fine-tuning works with: beside a training run's, each question's given responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nopsd.train.state import TrainingRun


@dataclass(kw_only=True)
class Finetuning(TrainingRun):
    """`responses`: token ids of the responses of each question, one or more. `client` and `sync` serve the label-free
    probe alone."""

    responses: Mapping[str, list[list[int]]]
