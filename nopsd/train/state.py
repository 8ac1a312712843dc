"""What every way of training works with: config, prompts, the student's engine, client, weight sync, where to log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from nopsd.config import Config
from nopsd.engine.distributed import Ranks
from nopsd.engine.ema import ShardedEma
from nopsd.engine.sequence_parallel import ALONE, SequenceParallel
from nopsd.engine.stopping import StopRequest
from nopsd.train.guards import Guards


class Sync(Protocol):
    """What a training loop asks of `nopsd.rollout.weight_sync.WeightSync`."""

    def push(self, version: int) -> None: ...


class Log(Protocol):
    def log(self, step: int, values: Mapping[str, float]) -> None: ...


@dataclass(kw_only=True)
class TrainingRun:
    """One training run as a rank sees it.

    `student` is a ZeRO-3 engine; `client` a `sampling.Client` on rank 0 and unused elsewhere; `selected` the uids that
    are trained on.
    """

    config: Config
    selected: list[str]
    student_prompts: Mapping[str, list[int]]
    student: Any
    client: Any
    sync: Sync
    ranks: Ranks
    folder: Path
    identity: Mapping[str, Any]
    ema: ShardedEma | None = None  # a moving average of the student's weights, where a method keeps one
    log: Log | None = None  # on rank 0
    progress: Callable[..., None] | None = None
    pad: int = 0
    probe: Callable[[int], dict[str, float]] | None = None  # on rank 0: label-free numbers of the served policy
    extras: dict[str, Any] = field(default_factory=dict)  # JSON, as loaded; saved with every checkpoint (of rank 0)
    stop: StopRequest = field(default_factory=StopRequest)
    parallel: SequenceParallel = ALONE  # the ranks that compute one sequence together

    @cached_property
    def guards(self) -> Guards:
        """Signs of collapse, from where the checkpoint left them."""
        return Guards(self.config.guard, self.extras.get("guards"))

    @property
    def seed(self) -> int:
        return self.config.train.seed
