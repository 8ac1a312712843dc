"""What the loop works with: config, prompts, engines, client, weight sync, where to log (one object for one run)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from nopsd.config import Config
from nopsd.data.prompts import TeacherPrompt
from nopsd.distill.teachers import Teacher, teacher_of
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

    `student` is a ZeRO-3 engine, `teacher` another or None (where the student's engine teaches too), `ema` None for
    a teacher that doesn't follow, `client` a `sampling.Client` on rank 0 and unused elsewhere.
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

    # prompts of the objective's further distributions (targets.OTHER_PROMPTS): name -> uid -> token ids
    aux_prompts: Mapping[str, Mapping[str, list[int]]] = field(default_factory=dict)
    style_ids: tuple[int, ...] = ()  # tokens of style rather than substance, for the log

    @cached_property
    def teaching(self) -> Teacher:
        """The configured teacher, whatever it computes with."""
        return teacher_of(self.config, self.student, self.teacher)

    @property
    def seed(self) -> int:
        return self.config.train.seed or self.config.seed
