"""The four teachers, behind one interface.

    frozen        θ_0: a second, frozen engine; under LoRA the student's own with its adapters off
    ema           θ̄, the slow average: a second engine; under LoRA the averaged adapter beside the trained one
    live          θ itself without gradient: the student's own engine
    trust_region  logits (1−c)·z_0 + c·z_θ, c = `teacher.mix` (SDPO)

In: a step's sides, which hold the demonstrations. Out: hidden states at their loss rows (never logits), a prompt that
several sequences share computed once (`context_states`), and the output weight that makes logits of them. Every rank
takes part, in step: each call is a collective.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from nopsd.config import Config
from nopsd.engine.distributed import Ranks
from nopsd.engine.ema import squared_distance
from nopsd.engine.lora import STUDENT, TEACHER, adapter_parameters, computing_with, lora_layers, squared_change
from nopsd.engine.packed_attention import Segments
from nopsd.train.batches import Side
from nopsd.train.context_states import PrefixCache, Reader
from nopsd.train.losses.head import gathered_weight, response_hidden


class TeacherStates(NamedTuple):
    """Final hidden states `[N, H]` at a side's loss rows.

    `mix`: others to mix in, the weight that makes their logits (None: the student's own), and their share c.
    """

    hidden_NH: Tensor
    mix: tuple[Tensor, None, float] | None = None


class Teacher(Protocol):
    """What the loop asks of a teacher."""

    def hidden(self, sides: Sequence[Side], student: Sequence[Side] = ()) -> list[TeacherStates]:
        """Of one prompt's sides, the teacher's own or another's, in all the micro-batches of a step.

        `student`: the student's sides of these micro-batches (`Reader.read`).
        """
        ...

    def weight(self) -> AbstractContextManager[Tensor | None]:
        """The whole output weight `[V, H]` while the block lasts; None if it is the student's own."""
        ...

    def squared_distance(self, rank: int) -> float:
        """This rank's share of ‖θ − teacher‖²; the sum over ranks is the whole. A mixed teacher counts as its base."""
        ...

    @property
    def readers(self) -> tuple[Reader, ...]:
        """What it computes hidden states with, for the log."""
        ...


def teacher_of(
    config: Config,
    student: Any,
    engine: Any | None,
    ranks: Ranks,
    prompts: Sequence[Sequence[int]] = (),
    groups: int = 1,
) -> Teacher:
    """The configured teacher. `student`: the engine around a DistillModel; `engine`: the second one, or None.

    `prompts`: all that it may be asked to read, and `groups`, for what is kept over steps (`PrefixCache`).
    """
    kind, several = config.teacher.kind, config.train.n > 1
    own = Reader(partial(own_hidden, student), ranks, several)
    if kind == "live":
        return LiveTeacher(student, own)
    budget = config.teacher.context_mib * 2**20
    cache = PrefixCache(prompts, budget, groups) if budget and kind != "ema" and config.train.packing else None
    base: Teacher
    if engine is not None:
        base = EngineTeacher(student, Reader(partial(response_hidden, engine), ranks, several, cache), engine)
    else:
        adapter = TEACHER if kind == "ema" else None
        base = AdapterTeacher(
            student, Reader(partial(adapter_hidden, student, adapter), ranks, several, cache), adapter
        )
    return TrustRegionTeacher(base, own, config.teacher.mix) if kind == "trust_region" else base


@dataclass(frozen=True)
class OneModel:
    """A teacher that reads with one model's weights."""

    student: Any
    reader: Reader

    def hidden(self, sides: Sequence[Side], student: Sequence[Side] = ()) -> list[TeacherStates]:
        return [TeacherStates(hidden_NH) for hidden_NH in self.reader.read(sides, student)]

    @property
    def readers(self) -> tuple[Reader, ...]:
        return (self.reader,)


@dataclass(frozen=True)
class EngineTeacher(OneModel):
    """A second engine, frozen or following."""

    engine: Any

    def weight(self) -> AbstractContextManager[Tensor | None]:
        return gathered_weight(self.engine)

    def squared_distance(self, rank: int) -> float:
        distance: float = squared_distance(parameters(self.student.module.lm), parameters(self.engine.module), rank)
        return distance


@dataclass(frozen=True)
class LiveTeacher(OneModel):
    """The student itself, under the teacher's prompt."""

    def weight(self) -> AbstractContextManager[Tensor | None]:
        return no_weight()

    def squared_distance(self, rank: int) -> float:
        return 0.0


@dataclass(frozen=True)
class AdapterTeacher(OneModel):
    """The student's engine with another adapter, or with none (the base model). Its head is never adapted."""

    adapter: str | None

    def weight(self) -> AbstractContextManager[Tensor | None]:
        return no_weight()

    def squared_distance(self, rank: int) -> float:
        """With an adapter, between the adapters' own tensors; without, between the weights they make."""
        lm = self.student.module.lm
        if self.adapter is not None:
            found: float = squared_distance(adapter_parameters(lm, STUDENT), adapter_parameters(lm, self.adapter), rank)
            return found
        change = squared_change(lm)
        return change if rank == 0 else 0.0


@dataclass(frozen=True)
class TrustRegionTeacher:
    """The frozen teacher's logits, drawn towards the student's by `mix`."""

    base: Teacher
    own: Reader
    mix: float

    def hidden(self, sides: Sequence[Side], student: Sequence[Side] = ()) -> list[TeacherStates]:
        pairs = zip(self.base.hidden(sides, student), self.own.read(sides, student), strict=True)
        return [TeacherStates(base.hidden_NH, (own_NH, None, self.mix)) for base, own_NH in pairs]

    def weight(self) -> AbstractContextManager[Tensor | None]:
        return self.base.weight()

    def squared_distance(self, rank: int) -> float:
        return self.base.squared_distance(rank)

    @property
    def readers(self) -> tuple[Reader, ...]:
        return (*self.base.readers, self.own)


@torch.no_grad()  # type: ignore[untyped-decorator]
def own_hidden(student: Any, ids_BT: Tensor, rows_N: Tensor, segments: Segments | None = None) -> Tensor:
    """The student's final hidden states `[N, H]` at such rows: evaluation mode, no gradient, no logits.

    The engine is run from its root, as ZeRO-3 wants.
    """
    training, nothing = student.training, ids_BT.new_empty(0, dtype=torch.float32)
    student.eval()  # without LoRA's dropout
    try:
        return student(
            input_ids_BT=ids_BT,
            rows_N=rows_N,
            teacher_hidden_NH=nothing,
            teacher_weight_VH=None,
            token_weight_N=nothing,
            states_only=True,
            segments=segments,
        )
    finally:
        student.train(training)


def adapter_hidden(
    student: Any, adapter: str | None, ids_BT: Tensor, rows_N: Tensor, segments: Segments | None = None
) -> Tensor:
    """The same with another adapter, or with the base weights alone (None)."""
    with computing_with(student.module.lm, adapter):
        return own_hidden(student, ids_BT, rows_N, segments)


@contextmanager
def no_weight() -> Iterator[None]:
    """The head takes the student's own weight, gathered there anyway."""
    yield None


def parameters(model: torch.nn.Module) -> Mapping[str, Any]:
    """The model's parameters by name."""
    return dict(model.named_parameters())


def follower(student_lm: torch.nn.Module, engine: Any | None) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Which parameters the moving average follows, and which it writes: adapters alone where there are any."""
    if lora_layers(student_lm):
        return adapter_parameters(student_lm, STUDENT), adapter_parameters(student_lm, TEACHER)
    assert engine is not None
    return parameters(student_lm), parameters(engine.module)
