"""A step's part of the trace: what student and teacher thought of each token, gathered over micro-batches and ranks.

The numbers are those that the loss computes for the log anyway. Every rank fills in its own tokens of the step; one sum
over ranks makes the whole, and rank 0 passes it to the writer's thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch

from nopsd.traces.schema import COUNTED, TOKEN_VALUES, StepTrace
from nopsd.train.batches import MicroBatch

if TYPE_CHECKING:
    from nopsd.train.metrics import BatchLoss
    from nopsd.train.run import Step, TrainingRun

ALL, NONE = "all", "none"


def trace_every(setting: str) -> int:
    """Every which step is traced, by `train.trace`; 0: none."""
    return {ALL: 1, NONE: 0}[setting] if setting in (ALL, NONE) else int(setting)


class Recorder:
    """Token values of one step, response after response. Used by all ranks alike."""

    def __init__(self, step: Step, device: torch.device | str) -> None:
        ends = list(accumulate(len(example.response) for example in step.examples))
        self.starts_E = torch.tensor([0, *ends[:-1]], device=device)
        self.names: list[str] = []
        self.values_KT = torch.zeros(len(TOKEN_VALUES) + 1, ends[-1] if ends else 0, device=device)

    def add(self, batch: MicroBatch, found: BatchLoss) -> None:
        """A micro-batch's tokens that carry loss."""
        self.names = list(found.by_token)
        counted_N = batch.weights_N > 0
        place_n = (self.starts_E[batch.example_N] + batch.position_N)[counted_N]
        for name, value_N in found.by_token.items():
            self.values_KT[TOKEN_VALUES.index(name), place_n] = value_N[counted_N].float()
        self.values_KT[-1, place_n] = 1

    def whole(self, run: TrainingRun) -> Mapping[str, np.ndarray]:
        """The values of all ranks' tokens by name; NaN where a token carries no loss. Collective."""
        values_KT = run.ranks.all_sum(self.values_KT).cpu()
        counted_T = values_KT[-1] > 0
        values_KT[:-1, ~counted_T] = torch.nan
        found = {name: values_KT[TOKEN_VALUES.index(name)].numpy() for name in self.names}
        return {**found, COUNTED: counted_T.numpy()}


def hand_over(run: TrainingRun, step: Step, recorder: Recorder) -> None:
    """Give a recorded step to the writer, which rank 0 has. Collective."""
    values = recorder.whole(run)
    if run.trace is not None:
        places = [i if e.place is None else e.place for i, e in enumerate(step.examples)]
        named = [replace(step.rollouts[i], uid=e.uid) for i, e in zip(places, step.examples, strict=True)]
        run.trace.add(StepTrace(step.number, named, values))
