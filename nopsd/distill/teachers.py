"""The four teachers, behind one interface (SPEC §6.2, §6.5).

    frozen        θ_0: a second, frozen engine; under LoRA the student's own with its adapters off
    ema           θ̄, the slow average: a second engine; under LoRA the averaged adapter beside the trained one
    live          θ itself without gradient: the student's own engine
    trust_region  logits (1−c)·z_0 + c·z_θ, c = `teacher.mix` (SDPO)

In: a micro-batch, whose teacher side holds the demonstrations. Out: hidden states at the loss rows (never logits),
and the output weight that makes logits of them. Every rank takes part, in step: each call is a collective.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from nopsd.config import Config
from nopsd.distill.batches import MicroBatch
from nopsd.distill.head import gathered_weight, response_hidden
from nopsd.engine.ema import squared_distance
from nopsd.engine.lora import STUDENT, TEACHER, adapter_parameters, computing_with, lora_layers, squared_change


class TeacherStates(NamedTuple):
    """Final hidden states `[N, H]` at a micro-batch's loss rows.

    `mix`: others to mix in, the weight that makes their logits (None: the student's own), and their share c.
    """

    hidden_NH: Tensor
    mix: tuple[Tensor, None, float] | None = None


class Teacher(Protocol):
    """What the loop asks of a teacher."""

    def hidden(self, batch: MicroBatch) -> TeacherStates: ...

    def weight(self) -> AbstractContextManager[Tensor | None]:
        """The whole output weight `[V, H]` while the block lasts; None if it is the student's own."""
        ...

    def squared_distance(self, rank: int) -> float:
        """This rank's share of ‖θ − teacher‖²; the sum over ranks is the whole. A mixed teacher counts as its base."""
        ...


def teacher_of(config: Config, student: Any, engine: Any | None) -> Teacher:
    """The configured teacher. `student`: the engine around a DistillModel; `engine`: the second one, or None."""
    kind = config.teacher.kind
    if kind == "live":
        return LiveTeacher(student)
    adapter = TEACHER if kind == "ema" else None
    base: Teacher = AdapterTeacher(student, adapter) if engine is None else EngineTeacher(student, engine)
    return TrustRegionTeacher(base, student, config.teacher.mix) if kind == "trust_region" else base


@dataclass(frozen=True)
class EngineTeacher:
    """A second engine, frozen or following."""

    student: Any
    engine: Any

    def hidden(self, batch: MicroBatch) -> TeacherStates:
        side = batch.teacher
        return TeacherStates(response_hidden(self.engine, side.ids_BT, side.rows_N, side.segments))

    def weight(self) -> AbstractContextManager[Tensor | None]:
        return gathered_weight(self.engine)

    def squared_distance(self, rank: int) -> float:
        return squared_distance(parameters(self.student.module.lm), parameters(self.engine.module), rank)


@dataclass(frozen=True)
class LiveTeacher:
    """The student itself, under the teacher's prompt."""

    student: Any

    def hidden(self, batch: MicroBatch) -> TeacherStates:
        return TeacherStates(own_hidden(self.student, batch))

    def weight(self) -> AbstractContextManager[Tensor | None]:
        return no_weight()

    def squared_distance(self, rank: int) -> float:
        return 0.0


@dataclass(frozen=True)
class AdapterTeacher:
    """The student's engine with another adapter, or with none (the base model). Its head is never adapted."""

    student: Any
    adapter: str | None

    def hidden(self, batch: MicroBatch) -> TeacherStates:
        with computing_with(self.student.module.lm, self.adapter):
            return TeacherStates(own_hidden(self.student, batch))

    def weight(self) -> AbstractContextManager[Tensor | None]:
        return no_weight()

    def squared_distance(self, rank: int) -> float:
        """With an adapter, between the adapters' own tensors; without, between the weights they make."""
        lm = self.student.module.lm
        if self.adapter is not None:
            return squared_distance(adapter_parameters(lm, STUDENT), adapter_parameters(lm, self.adapter), rank)
        change = squared_change(lm)
        return change if rank == 0 else 0.0


@dataclass(frozen=True)
class TrustRegionTeacher:
    """The frozen teacher's logits, drawn towards the student's by `mix`."""

    base: Teacher
    student: Any
    mix: float

    def hidden(self, batch: MicroBatch) -> TeacherStates:
        return TeacherStates(self.base.hidden(batch).hidden_NH, (own_hidden(self.student, batch), None, self.mix))

    def weight(self) -> AbstractContextManager[Tensor | None]:
        return self.base.weight()

    def squared_distance(self, rank: int) -> float:
        return self.base.squared_distance(rank)


@torch.no_grad()
def own_hidden(student: Any, batch: MicroBatch) -> Tensor:
    """The student's final hidden states `[N, H]` at the teacher's rows: evaluation mode, no gradient, no logits.

    The engine is run from its root, as ZeRO-3 wants.
    """
    side, training = batch.teacher, student.training
    nothing = side.ids_BT.new_empty(0, dtype=torch.float32)
    student.eval()  # without LoRA's dropout
    try:
        return student(
            input_ids_BT=side.ids_BT, rows_N=side.rows_N, teacher_hidden_NH=nothing, teacher_weight_VH=None,
            token_weight_N=nothing, states_only=True, segments=side.segments,
        )
    finally:
        student.train(training)


@contextmanager
def no_weight() -> Iterator[None]:
    """The head takes the student's own weight, gathered there anyway."""
    yield None


def parameters(model: torch.nn.Module) -> Mapping[str, Any]:
    return dict(model.named_parameters())


def follower(student_lm: torch.nn.Module, engine: Any | None) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Which parameters the moving average follows, and which it writes: adapters alone where there are any."""
    if lora_layers(student_lm):
        return adapter_parameters(student_lm, STUDENT), adapter_parameters(student_lm, TEACHER)
    assert engine is not None
    return parameters(student_lm), parameters(engine.module)
