"""What the loop works with: config, prompts, engines, client, weight sync, where to log (one object for one run)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nopsd.config import Config
from nopsd.data.prompts import TeacherPrompt
from nopsd.engine.distributed import Ranks
from nopsd.engine.ema import ShardedEma


class Sync(Protocol):
    """What the loop asks of `nopsd.rollout.weight_sync.WeightSync`."""

    def push(self, version: int) -> None: ...


class Log(Protocol):
    def log(self, step: int, values: Mapping[str, float]) -> None: ...


@dataclass
class Distillation:
    """All that the loop works with.

    `student` and `teacher` are ZeRO-3 engines, `ema` is None for a frozen teacher, `client` a `sampling.Client`
    on rank 0 and unused elsewhere.
    """

    config: Config
    selected: list[str]
    student_prompts: Mapping[str, list[int]]
    teacher_prompts: Mapping[str, TeacherPrompt]
    student: Any
    teacher: Any
    ema: ShardedEma | None
    client: Any
    sync: Sync
    ranks: Ranks
    folder: Path
    log: Log | None  # on rank 0
    progress: Callable[..., None] | None
    identity: Mapping[str, Any]
    pad: int = 0
    probe: Callable[[int], dict[str, float]] | None = None  # on rank 0: label-free numbers of the served policy

    style_ids: tuple[int, ...] = ()  # tokens of style rather than substance, for the log

    @property
    def seed(self) -> int:
        return self.config.train.seed or self.config.seed
