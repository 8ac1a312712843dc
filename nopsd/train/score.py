"""The label-free score that best checkpoints are kept by: the mean of one logged number since the last checkpoint.

In: rows of the training log (`nopsd.train.algorithms.distill_metrics`, `nopsd.train.probe`). Out: one number a
checkpoint, None where
nothing was logged. A checkpoint made while a guard's limit is passed gets none either, and so is never the best.
No such number reads a label. None measures quality either: the loss falls where the teacher follows
the student fast (SPEC §11 F8), and the majority share rises in collapse (F3), so `train.export: last` is the default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from nopsd.config import TrainConfig
from nopsd.train.checkpoint_files import Keep

LOWER_IS_BETTER = {"loss": True, "kl_reverse": True, "probe/majority_share": False, "probe/unparsed_share": True}


def keep_of(config: TrainConfig, sound: int | None = None) -> Keep:
    """Which checkpoints a run keeps, that of step `sound` whatever its age."""
    return Keep(config.keep_checkpoints, config.keep_best, config.best_by, LOWER_IS_BETTER[config.best_by], sound)


class Score:
    """Gathers the number named `by`, step by step. A resumed run starts at a checkpoint, so with none gathered."""

    def __init__(self, by: str) -> None:
        self.by = by
        self.values: list[float] = []

    def add(self, row: Mapping[str, float]) -> None:
        """One step's row; a skipped step's NaN doesn't count."""
        value = row.get(self.by, math.nan)
        if math.isfinite(value):
            self.values.append(float(value))

    def take(self) -> float | None:
        """The mean of what was gathered, and begin anew."""
        values, self.values = self.values, []
        return math.fsum(values) / len(values) if values else None
