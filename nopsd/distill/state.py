"""What the loop works with: config, prompts, engines, client, weight sync, where to log (one object for one run)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from nopsd.config import Config
from nopsd.data.prompts import TeacherPrompt
from nopsd.distill.guards import Guards
from nopsd.distill.targets import BASE, auxiliaries
from nopsd.distill.teachers import Teacher, teacher_of
from nopsd.engine.distributed import Ranks
from nopsd.engine.ema import ShardedEma
from nopsd.engine.sequence_parallel import ALONE, SequenceParallel
from nopsd.engine.stopping import StopRequest


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
    extras: dict[str, Any] = field(default_factory=dict)  # JSON, as loaded; saved with every checkpoint (of rank 0)
    parallel: SequenceParallel = ALONE  # the ranks that compute one sequence together
    stop: StopRequest = field(default_factory=StopRequest)
    style_ids: tuple[int, ...] = ()  # tokens of style rather than substance, for the log

    @cached_property
    def teaching(self) -> Teacher:
        """The configured teacher, whatever it computes with."""
        lanes = self.ranks.world // self.parallel.size
        return teacher_of(self.config, self.student, self.teacher, self.ranks, self._taught_prompts(), lanes)

    def _taught_prompts(self) -> list[list[int]]:
        """All that the teacher's weights read, question by question."""
        readings = [{uid: prompt.ids for uid, prompt in self.teacher_prompts.items()}, *self.aux_prompts.values()]
        if BASE in auxiliaries(self.config.distill):
            readings.append(dict(self.student_prompts))
        return [reading[uid] for uid in sorted(self.selected) for reading in readings]

    @cached_property
    def guards(self) -> Guards:
        """Signs of collapse, from where the checkpoint left them."""
        return Guards(self.config.guard, self.extras.get("guards"))

    @property
    def seed(self) -> int:
        return self.config.train.seed or self.config.seed
