"""What the loop of distillation works with: beside a training run's, the teacher's engine and prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nopsd.data.prompts import TeacherPrompt
from nopsd.train.losses.targets import BASE, auxiliaries
from nopsd.train.state import TrainingRun
from nopsd.train.teachers import Teacher, teacher_of


@dataclass(kw_only=True)
class Distillation(TrainingRun):
    """`teacher` is a second ZeRO-3 engine, or None where the student's engine teaches too; `ema` follows the student
    where the teacher does."""

    teacher_prompts: Mapping[str, TeacherPrompt]
    teacher: Any = None
    # prompts of the objective's further distributions (targets.OTHER_PROMPTS): name -> uid -> token ids
    aux_prompts: Mapping[str, Mapping[str, list[int]]] = field(default_factory=dict)
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
