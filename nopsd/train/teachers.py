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

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nopsd.config import Config
from nopsd.engine.distributed import Ranks
from nopsd.engine.ema import squared_distance
from nopsd.engine.lora import STUDENT, TEACHER, adapter_parameters, computing_with, lora_layers, squared_change
from nopsd.engine.packed_attention import Context, Segments
from nopsd.train.batches import Side
from nopsd.train.context_states import (
    Prefix,
    PrefixCache,
    Prefixes,
    key_of,
    nothing,
    plan_prefixes,
    prefixes,
    starts_of,
    suffixes,
)
from nopsd.train.losses.head import gathered_weight, response_hidden

# ids [B, T], rows [N] and segments to hidden states [N, H]; collective where the model is sharded
Forward = Callable[[Tensor, Tensor, Segments | None], Tensor]


class TeacherStates(NamedTuple):
    """Final hidden states `[N, H]` at a side's loss rows.

    `mix`: others to mix in, the weight that makes their logits (None: the student's own), and their share c.
    """

    hidden_NH: Tensor
    mix: tuple[Tensor, None, float] | None = None


@dataclass
class Reader:
    """One model's hidden states of a step's sides. `shared`: several sequences of a step may begin alike."""

    forward: Forward
    ranks: Ranks
    shared: bool
    cache: PrefixCache | None = None
    fills: int = 0  # contexts computed
    hits: int = 0  # sequences read behind one that was there already

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def read(self, sides: Sequence[Side], student: Sequence[Side] = ()) -> list[Tensor]:
        """Hidden states `[N, H]` of each side. Every rank must call it, and runs as many forwards as the others.

        `student`: the student's sides of the same micro-batches; one with the same ids is read whole, as it reads.
        """
        if not sides or sides[0].segments is None or not (self.shared or self.cache):
            return [self.forward(side.ids_BT, side.rows_N, side.segments) for side in sides]
        chosen = self._chosen(sides[0].ids_BT)
        same = [torch.equal(side.ids_BT, own.ids_BT) for side, own in zip(sides, student)] or [False] * len(sides)
        found = [nothing(side) if whole else prefixes(side) for side, whole in zip(sides, same)]
        plan = plan_prefixes(found, chosen, self.shared)
        held = dict(self.cache.held) if self.cache else {}
        passes = len(sides) + len({p.key for of_side in plan for p in of_side if p} - held.keys())
        most = int(self.ranks.all_max(torch.tensor([passes])))
        states = self._read(sides, plan, held)
        for _ in range(most - passes):
            self._record(sides[0].ids_BT[:, :1])
        return states

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def prepare(self, prompts: Sequence[Sequence[int]]) -> None:
        """Compute what the cache will hold of these prompts of this rank's. Every rank must call it, with its own."""
        if self.cache is None:
            return
        token_11 = torch.zeros(1, 1, dtype=torch.long, device=self.ranks.device)
        absent = self._chosen(token_11) - self.cache.held.keys()
        begins = {key_of(prompt[:-1]): prompt[:-1] for prompt in prompts}
        missing = self.cache.fitting([Prefix(key, len(ids)) for key, ids in begins.items() if key in absent])
        most = int(self.ranks.all_max(torch.tensor([len(missing)])))
        for prefix in missing:
            self._fill(prefix, torch.tensor([begins[prefix.key]], device=self.ranks.device))
        for _ in range(most - len(missing)):
            self._record(token_11)

    def _read(self, sides: Sequence[Side], plan: Sequence[Prefixes], held: dict[bytes, Context]) -> list[Tensor]:
        last = {p.key: place for place, found in enumerate(plan) for p in found if p}
        states = []
        for place, (side, found) in enumerate(zip(sides, plan)):
            for prefix, start in zip(found, starts_of(side)):
                if prefix is None:
                    continue
                if prefix.key in held:
                    self.hits += 1
                else:
                    held[prefix.key] = self._fill(prefix, side.ids_BT[:, start : start + prefix.tokens])
            states.append(self.forward(*suffixes(side, found, held)))
            for key in [key for key in held if last.get(key) == place]:
                del held[key]  # the last reference, unless it is kept
        return states

    def _fill(self, prefix: Prefix, ids_1C: Tensor) -> Context:
        context = self._record(ids_1C)
        self.fills += 1
        if self.cache is not None:
            self.cache.admit(prefix.key, context)
        return context

    def _record(self, ids_1C: Tensor) -> Context:
        """A pass over one prefix alone; of one token where a rank has nothing to do while others compute."""
        context = Context()
        self.forward(ids_1C, ids_1C.new_empty(0), Segments((ids_1C.shape[1],), recorded=(context,)))
        return context

    def _chosen(self, ids_1S: Tensor) -> frozenset[bytes]:
        if self.cache is None:
            return frozenset()
        if self.cache.chosen is not None:
            return self.cache.chosen
        return self.cache.choose(self._record(ids_1S[:, :1]).nbytes)  # what a token takes, measured


@dataclass(frozen=True)
class Teacher:
    """`readers`: what computes its hidden states; with `mix`, of a trust region, the student's own come last.

    `weight()`: the whole output weight `[V, H]` while the block lasts; None if it is the student's own.
    `squared_distance(rank)`: this rank's share of ‖θ − teacher‖²; the sum over ranks is the whole. A mixed teacher
    counts as its base.
    """

    readers: tuple[Reader, ...]
    weight: Callable[[], AbstractContextManager[Tensor | None]]
    squared_distance: Callable[[int], float]
    mix: float | None = None

    def hidden(self, sides: Sequence[Side], student: Sequence[Side] = ()) -> list[TeacherStates]:
        """Of one prompt's sides, the teacher's own or another's, in all the micro-batches of a step.

        `student`: the student's sides of these micro-batches (`Reader.read`).
        """
        states = self.readers[0].read(sides, student)
        if self.mix is None:
            return [TeacherStates(hidden_NH) for hidden_NH in states]
        own = self.readers[1].read(sides, student)
        return [TeacherStates(base_NH, (own_NH, None, self.mix)) for base_NH, own_NH in zip(states, own, strict=True)]


def teacher_of(
    config: Config,
    student: Any,
    engine: Any | None,
    ranks: Ranks,
    prompts: Sequence[Sequence[int]] = (),
    groups: int = 1,
) -> Teacher:
    """The configured teacher.

    Args:
        config: The run's.
        student: The engine around a DistillModel.
        engine: The second one, or None.
        ranks: All that train.
        prompts: All that it may be asked to read, for what is kept over steps (`PrefixCache`).
        groups: Data-parallel groups of ranks, for the same.
    """
    kind, several = config.teacher.kind, config.train.n > 1
    own = Reader(partial(own_hidden, student), ranks, several)
    if kind == "live":
        return Teacher((own,), nullcontext, lambda rank: 0.0)
    budget = config.teacher.context_mib * 2**20
    cache = PrefixCache(prompts, budget, groups) if budget and kind != "ema" and config.train.packing else None
    adapter = TEACHER if kind == "ema" else None  # under LoRA: the averaged one, or none (the base model)
    forward: Forward = partial(adapter_hidden, student, adapter)
    weight: Callable[[], AbstractContextManager[Tensor | None]] = nullcontext  # an adapted model's head never is
    if engine is not None:
        forward, weight = partial(response_hidden, engine), partial(gathered_weight, engine)
    readers = (Reader(forward, ranks, several, cache),)
    distance = partial(distance_from, student, engine, adapter)
    if kind == "trust_region":
        return Teacher((*readers, own), weight, distance, config.teacher.mix)
    return Teacher(readers, weight, distance)


def distance_from(student: Any, engine: Any | None, adapter: str | None, rank: int) -> float:
    """This rank's share of ‖θ − θ̄‖²: between engines; between adapters; or of what the only adapter changes."""
    lm = student.module.lm
    if engine is not None:
        found: float = squared_distance(dict(lm.named_parameters()), dict(engine.module.named_parameters()), rank)
    elif adapter is not None:
        found = squared_distance(adapter_parameters(lm, STUDENT), adapter_parameters(lm, adapter), rank)
    else:
        change = squared_change(lm)
        found = change if rank == 0 else 0.0
    return found


@torch.no_grad()  # type: ignore[untyped-decorator]
def own_hidden(student: Any, ids_BT: Tensor, rows_N: Tensor, segments: Segments | None = None) -> Tensor:
    """The student's final hidden states: evaluation mode, no gradient, no logits.

    The engine is run from its root, as ZeRO-3 wants.

    Args:
        student: The engine.
        ids_BT: Token ids.
        rows_N: Places in the flattened ids.
        segments: Where packed sequences begin; None: one a row.

    Returns:
        [N, H].
    """
    training = student.training
    student.eval()  # without LoRA's dropout
    try:
        return student(input_ids_BT=ids_BT, rows_N=rows_N, segments=segments)
    finally:
        student.train(training)


def adapter_hidden(
    student: Any, adapter: str | None, ids_BT: Tensor, rows_N: Tensor, segments: Segments | None = None
) -> Tensor:
    """The same with another adapter, or with the base weights alone (None)."""
    with computing_with(student.module.lm, adapter):
        return own_hidden(student, ids_BT, rows_N, segments)


def follower(student_lm: torch.nn.Module, engine: Any | None) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Which parameters the moving average follows, and which it writes: adapters alone where there are any."""
    if lora_layers(student_lm):
        return adapter_parameters(student_lm, STUDENT), adapter_parameters(student_lm, TEACHER)
    assert engine is not None
    return dict(student_lm.named_parameters()), dict(engine.module.named_parameters())


def context_metrics(readers: Sequence[Reader], ranks: Ranks) -> dict[str, float]:
    """Since the last call: contexts computed and found there already, over all ranks; MiB held by the fullest.

    Empty where nothing is ever reused. Collective. They tell of speed alone: a resumed run has other ones. Ranks that
    compute a sequence together count it each.
    """
    if not any(reader.shared or reader.cache for reader in readers):
        return {}
    nbytes = sum(reader.cache.nbytes for reader in readers if reader.cache)
    counts = [sum(r.fills for r in readers), sum(r.hits for r in readers), nbytes]
    for reader in readers:
        reader.fills = reader.hits = 0
    fills, hits, held = torch.stack(ranks.gather(torch.tensor(counts))).unbind(1)
    return {
        "context/fills": float(fills.sum()),
        "context/hits": float(hits.sum()),
        "context/mib": float(held.max()) / 2**20,
    }
