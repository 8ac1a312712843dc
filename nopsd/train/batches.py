"""From prompts and responses to the micro-batches of a step. Pure functions.

In: the step's rollouts with both of their prompts, as token ids (`Example`). Out: for each data-parallel group the
same number of `MicroBatch`es, as `planning` assigns them. In each, the student reads [prompt_S, y] and the teacher
[prompt_T, y], laid end to end in one row (or padded on the right to a rectangle); `rows_N` picks from each model's
hidden states the positions that predict the response's tokens (P−1 … P+T−2), so row j of the student and row j of the
teacher predict the same token.

Weights make the loss the whole step's: L = Σ_j weights_j · ℓ_j over all ranks and micro-batches, whatever
the split. Every rank holds the ids of the whole step, so the global token count needs no collective.

Shapes: B sequences, T positions of the padded sequence (packed: B = 1, T all tokens), N loss tokens.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nopsd.engine.packed_attention import Segments
from nopsd.engine.sequence_parallel import SequenceParallel
from nopsd.train.planning import Item, Limits, plan


@dataclass(frozen=True)
class Example:
    """One rollout and its prompts (token ids). `response` holds the ids as sampled.

    `teacher_prompt`: None where there is no teacher. `served`: the server's log-prob of each id of the response, None
    if it wasn't asked.
    """

    uid: str
    student_prompt: list[int]
    teacher_prompt: list[int] | None
    response: list[int]
    served: list[float] | None = None
    aux_prompts: Mapping[str, list[int]] = field(default_factory=dict)  # further prompts the teacher reads, by name


@dataclass(frozen=True)
class Side:
    """What one role reads: one row of sequences end to end, or a rectangle padded on the right.

    `rows_N`: flat positions in B·T of the hidden states that predict the loss tokens. `lengths`: tokens of each
    sequence, in order; `prompts`: how many of them are its prompt; `names`: which prompt that is, for reuse.
    """

    ids_BT: Tensor
    rows_N: Tensor
    lengths: tuple[int, ...] = ()
    prompts: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    packed: bool = False

    @property
    def segments(self) -> Segments | None:
        """What the packed attention needs; None for a rectangle, which needs no mask (causal, padded behind)."""
        return Segments(self.lengths) if self.packed else None

    def to(self, device: torch.device | str) -> Side:
        return replace(self, ids_BT=self.ids_BT.to(device), rows_N=self.rows_N.to(device))

    def share(self, parallel: SequenceParallel) -> Side:
        """The same sequences, and of the loss rows this rank's."""
        return replace(self, rows_N=parallel.own(self.rows_N))


@dataclass(frozen=True)
class MicroBatch:
    """`targets_N`: the response ids at the loss rows. `weights_N`: float32, 0 in a dummy.

    `served_N`: the server's log-probs of the targets, NaN where unknown. `example_N`: which of the step's examples each
    row belongs to; 0 in a dummy. Without a teacher's prompt `teacher` is the student's side.
    """

    student: Side
    teacher: Side
    targets_N: Tensor
    weights_N: Tensor
    served_N: Tensor
    aux: Mapping[str, Side] = field(default_factory=dict)  # the same response after the auxiliary prompts
    example_N: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def to(self, device: torch.device | str) -> MicroBatch:
        rest = (self.targets_N.to(device), self.weights_N.to(device), self.served_N.to(device))
        aux = {name: side.to(device) for name, side in self.aux.items()}
        return MicroBatch(self.student.to(device), self.teacher.to(device), *rest, aux, self.example_N.to(device))

    def share(self, parallel: SequenceParallel) -> MicroBatch:
        """The same sequences with this rank's share of the loss rows, maybe none: each row's loss is computed once."""
        rest = (parallel.own(self.targets_N), parallel.own(self.weights_N), parallel.own(self.served_N))
        aux = {name: side.share(parallel) for name, side in self.aux.items()}
        owned = parallel.own(self.example_N)
        return MicroBatch(self.student.share(parallel), self.teacher.share(parallel), *rest, aux, owned)


def with_aux_prompts(
    examples: Sequence[Example], prompts: Mapping[str, Mapping[str, list[int]]], wanted: Sequence[str]
) -> list[Example]:
    """The examples with the wanted auxiliary prompts. `prompts`: name -> uid -> ids."""
    names = [name for name in wanted if name in prompts]
    return [replace(e, aux_prompts={name: prompts[name][e.uid] for name in names}) for e in examples]


def batch_uids(selected: Sequence[str], step: int, batch: int, seed: int) -> list[str]:
    """The questions of a step: the selection shuffled anew each epoch, without replacement, wrapping around.

    A pure function of its arguments, so resuming needs no state. A uid can come twice in one step only where an epoch
    ends inside it.

    Args:
        selected: The questions that are trained on.
        step: From 0.
        batch: Questions of a step.
        seed: Of the shuffles.
    """
    ordered = sorted(selected)
    places = [divmod(place, len(ordered)) for place in range(step * batch, (step + 1) * batch)]
    orders = {epoch: random.Random(f"{seed}/{epoch}").sample(ordered, len(ordered)) for epoch, _ in places}
    return [orders[epoch][within] for epoch, within in places]


def loss_span(tokens: int, skip_first: int, max_tokens: int | None) -> range:
    """The response positions that carry loss: from `skip_first` on, below `max_tokens`."""
    stop = tokens if max_tokens is None else min(tokens, max_tokens)
    return range(min(skip_first, stop), stop)


def sequence_weights(loss_tokens: Sequence[int], aggregation: str) -> list[float]:
    """The weight of each loss token, such that L = Σ_sequences w · Σ_tokens ℓ.

        token_mean            1 / Σ tokens of the step
        seq_mean_token_mean   1 / (sequences · its tokens)
        seq_mean_token_sum    1 / sequences: the paper's Eq. 10 as written

    Args:
        loss_tokens: Of each sequence of the step, on all ranks; those without don't count.
        aggregation: `distill.aggregation`.

    Returns:
        One value a sequence.
    """
    total, sequences = sum(loss_tokens), sum(n > 0 for n in loss_tokens)
    if not total:
        return [0.0] * len(loss_tokens)
    if aggregation == "token_mean":
        return [1.0 / total] * len(loss_tokens)
    if aggregation == "seq_mean_token_mean":
        return [1.0 / (sequences * n) if n else 0.0 for n in loss_tokens]
    if aggregation == "seq_mean_token_sum":
        return [1.0 / sequences] * len(loss_tokens)
    raise ValueError(f"aggregation {aggregation}")


@dataclass(frozen=True)
class Batching:
    """How a step is cut and weighted. `aggregation`: as `sequence_weights` has it; loss is on the response positions
    from `skip_first` on, below `max_tokens`."""

    limits: Limits
    aggregation: str = "token_mean"
    pad: int = 0
    skip_first: int = 0
    max_tokens: int | None = None


def rank_micro_batches(examples: Sequence[Example], group: int, groups: int, batching: Batching) -> list[MicroBatch]:
    """The micro-batches of one data-parallel group (`planning`), dummies of weight 0 included. At least one."""
    spans = [loss_span(len(e.response), batching.skip_first, batching.max_tokens) for e in examples]
    weights = sequence_weights([len(s) for s in spans], batching.aggregation)
    carrying = [i for i, span in enumerate(spans) if span]
    slots = plan([item_of(examples[i]) for i in carrying], groups, batching.limits)
    micro_batches = []
    for slot in slots[group]:
        parts = [(examples[i], spans[i], weights[i], i) for i in (carrying[place] for place in slot)]
        parts = parts or [(_dummy(examples[0]), range(1), 0.0, 0)]
        micro_batches.append(_micro_batch(parts, batching.pad, batching.limits.packed))
    return micro_batches


def item_of(example: Example) -> Item:
    """What planning knows of a rollout."""
    taught = [] if example.teacher_prompt is None else [example.teacher_prompt]
    prompts = (example.student_prompt, *taught, *example.aux_prompts.values())
    return Item(example.uid, tuple(len(p) for p in prompts), len(example.response))


def _dummy(example: Example) -> Example:
    """The shortest sequence with one response token: keeps an idle rank in step with the others."""
    prompt = example.student_prompt[-1:]
    aux = dict.fromkeys(example.aux_prompts, prompt)
    taught = None if example.teacher_prompt is None else prompt
    return Example("", prompt, taught, (example.response or prompt)[:1], aux_prompts=aux)


def _micro_batch(parts: list[tuple[Example, range, float, int]], pad: int, packed: bool) -> MicroBatch:
    examples, spans, weights, places = zip(*parts)

    def side(prompts: Sequence[list[int]]) -> Side:
        return _side(prompts, examples, spans, pad, packed)

    student = side([e.student_prompt for e in examples])
    taught = examples[0].teacher_prompt is not None
    teacher = side([e.teacher_prompt for e in examples]) if taught else student
    aux = {name: side([e.aux_prompts[name] for e in examples]) for name in examples[0].aux_prompts}
    targets = torch.tensor([e.response[t] for e, span in zip(examples, spans) for t in span])
    check_alignment(student, teacher, targets)
    for other in aux.values():
        check_alignment(student, other, targets)
    weights_N = torch.tensor([w for w, span in zip(weights, spans) for _ in span], dtype=torch.float32)
    served_N = torch.tensor([e.served[t] if e.served else math.nan for e, span in zip(examples, spans) for t in span])
    example_N = torch.tensor([place for place, span in zip(places, spans) for _ in span])
    return MicroBatch(student, teacher, targets, weights_N, served_N, aux, example_N)


def _side(
    prompts: Sequence[list[int]], examples: Sequence[Example], spans: Sequence[range], pad: int, packed: bool
) -> Side:
    sequences = [prompt + example.response for prompt, example in zip(prompts, examples)]
    lengths = tuple(len(s) for s in sequences)
    if packed:
        ids_BT = torch.tensor([[i for s in sequences for i in s]], dtype=torch.long)
        starts = [0, *itertools.accumulate(lengths)]
    else:
        ids_BT = torch.full((len(prompts), max(lengths)), pad, dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids_BT[row, : len(sequence)] = torch.tensor(sequence)
        starts = [row * max(lengths) for row in range(len(prompts))]
    rows = [start + len(prompt) - 1 + t for start, prompt, span in zip(starts, prompts, spans) for t in span]
    return Side(
        ids_BT,
        torch.tensor(rows, dtype=torch.long),
        lengths,
        tuple(len(p) for p in prompts),
        tuple(e.uid for e in examples),
        packed,
    )


def check_alignment(student: Side, teacher: Side, targets_N: Tensor) -> None:
    """Check that row j of both roles predicts response token j: a shift by one would train on another position.

    Args:
        student: Ids, and the rows that carry loss; `teacher` likewise.
        targets_N: The response ids at those rows.

    Raises:
        ValueError: The id after a row is another one.
    """
    for name, side in (("student", student), ("teacher", teacher)):
        following = side.ids_BT.flatten()[side.rows_N + 1]
        if not torch.equal(following, targets_N):
            raise ValueError(f"the {name}'s rows don't predict the response's tokens")
