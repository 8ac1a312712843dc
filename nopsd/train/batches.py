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
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nopsd.engine.packed_attention import Segments
from nopsd.engine.sequence_parallel import ALONE, SequenceParallel
from nopsd.train.planning import Item, Limits, plan, retained_of


@dataclass(frozen=True)
class Example:
    """One rollout and its prompts (token ids). `response` holds the ids as sampled.

    `teacher_prompt`: None where there is no teacher. `served`: the server's log-prob of each id of the response, None
    if it wasn't asked. `trained_before`: how many of its first tokens earlier steps have trained on; without loss.
    """

    uid: str
    student_prompt: list[int]
    teacher_prompt: list[int] | None
    response: list[int]
    served: list[float] | None = None
    aux_prompts: Mapping[str, list[int]] = field(default_factory=dict)  # further prompts the teacher reads, by name
    place: int | None = None  # among the step's rollouts; None: the example's own among the examples
    teaches: bool = True  # False: carries no loss
    trained_before: int = 0


@dataclass(frozen=True)
class Side:
    """What one role reads: one row of sequences end to end, or a rectangle padded on the right.

    `rows_N`: flat positions in B·T of the hidden states that predict the loss tokens. `lengths`: tokens of each
    sequence, in order; `prompts`: how many of them are its prompt; `names`: which prompt that is, for reuse.
    `segments`: what the packed attention needs; None for a rectangle, which needs no mask (causal, padded behind).
    """

    ids_BT: Tensor
    rows_N: Tensor
    lengths: tuple[int, ...] = ()
    prompts: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    segments: Segments | None = None


@dataclass(frozen=True)
class MicroBatch:
    """`targets_N`: the response ids at the loss rows. `weights_N`: float32, 0 in a dummy.

    `served_N`: the server's log-probs of the targets, NaN where unknown. `example_N`: which of the step's examples each
    row belongs to, `position_N`: which of its response's tokens it is; 0 in a dummy. Without a teacher's prompt
    `teacher` is the student's side.
    """

    student: Side
    teacher: Side
    targets_N: Tensor
    weights_N: Tensor
    served_N: Tensor
    aux: Mapping[str, Side] = field(default_factory=dict)  # the same response after the auxiliary prompts
    example_N: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    position_N: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))


def batch_uids(
    selected: Sequence[str], step: int, batch: int, seed: int, others: Sequence[str] = (), share: float = 0.0
) -> list[str]:
    """The questions of a step: the selection shuffled anew each epoch, without replacement, wrapping around.

    A pure function of its arguments, so resuming needs no state. A uid can come twice in one step only where an epoch
    ends inside it.

    Args:
        selected: The questions that are trained on.
        step: From 0.
        batch: Questions of a step.
        seed: Of the shuffles.
        others: Questions from elsewhere, drawn likewise; none: there are none.
        share: Of the batch that is from there (`retained_of`); they come last.
    """
    if others:
        kept = retained_of(batch, share)
        return [*batch_uids(selected, step, batch - kept, seed), *batch_uids(others, step, kept, seed)]
    ordered = sorted(selected)
    places = [divmod(place, len(ordered)) for place in range(step * batch, (step + 1) * batch)]
    orders = {epoch: random.Random(f"{seed}/{epoch}").sample(ordered, len(ordered)) for epoch, _ in places}
    return [orders[epoch][within] for epoch, within in places]


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
    from `skip_first` on, below `max_tokens`. `parallel`: the ranks that share each sequence, and so its loss rows."""

    limits: Limits
    aggregation: str = "token_mean"
    pad: int = 0
    skip_first: int = 0
    max_tokens: int | None = None
    parallel: SequenceParallel = ALONE
    device: torch.device | str = "cpu"


def rank_micro_batches(examples: Sequence[Example], group: int, groups: int, batching: Batching) -> list[MicroBatch]:
    """The micro-batches of one data-parallel group (`planning`), dummies of weight 0 included. At least one.

    Args:
        examples: The whole step's.
        group: This rank's group, from 0.
        groups: How many there are.
        batching: The limits of a micro-batch, and which tokens carry loss.
    """
    first = [max(batching.skip_first, e.trained_before) for e in examples]
    spans = [range(len(e.response) * e.teaches)[start : batching.max_tokens] for start, e in zip(first, examples)]
    weights = sequence_weights([len(s) for s in spans], batching.aggregation)
    carrying = [i for i, span in enumerate(spans) if span]
    items = []
    for example in (examples[i] for i in carrying):
        taught = [] if example.teacher_prompt is None else [example.teacher_prompt]
        prompts = (example.student_prompt, *taught, *example.aux_prompts.values())
        items.append(Item(example.uid, tuple(len(p) for p in prompts), len(example.response)))
    micro_batches = []
    for slot in plan(items, groups, batching.limits)[group]:
        parts = [(examples[i], spans[i], weights[i], i) for i in (carrying[place] for place in slot)]
        micro_batches.append(_micro_batch(parts or [(_dummy(examples[0]), range(1), 0.0, 0)], batching))
    return micro_batches


def _dummy(example: Example) -> Example:
    """The shortest sequence with one response token: keeps an idle rank in step with the others."""
    prompt = example.student_prompt[-1:]
    aux = dict.fromkeys(example.aux_prompts, prompt)
    taught = None if example.teacher_prompt is None else prompt
    return Example("", prompt, taught, (example.response or prompt)[:1], aux_prompts=aux)


def _micro_batch(parts: list[tuple[Example, range, float, int]], batching: Batching) -> MicroBatch:
    examples, spans, weights, places = zip(*parts)
    prompts = {"student": [e.student_prompt for e in examples]}
    if examples[0].teacher_prompt is not None:
        prompts["teacher"] = [e.teacher_prompt for e in examples]
    prompts |= {name: [e.aux_prompts[name] for e in examples] for name in examples[0].aux_prompts}
    sides = {name: _side(read, examples, spans, batching) for name, read in prompts.items()}
    rows = [  # of each loss token; this rank's are every size-th, so that each is computed once
        (e.response[t], weight, e.served[t] if e.served else math.nan, place, t)
        for e, span, weight, place in zip(examples, spans, weights, places)
        for t in span
    ][batching.parallel.rank :: batching.parallel.size]
    targets, token_weights, served, of_example, position = zip(*rows) if rows else ((),) * 5
    device = batching.device
    targets_N = torch.tensor(targets, dtype=torch.long, device=device)
    check_alignment(sides, targets_N)
    student = sides.pop("student")
    return MicroBatch(
        student,
        sides.pop("teacher", student),
        targets_N,
        torch.tensor(token_weights, dtype=torch.float32, device=device),
        torch.tensor(served, dtype=torch.float32, device=device),
        sides,
        torch.tensor(of_example, dtype=torch.long, device=device),
        torch.tensor(position, dtype=torch.long, device=device),
    )


def _side(
    prompts: Sequence[list[int]], examples: Sequence[Example], spans: Sequence[range], batching: Batching
) -> Side:
    sequences = [prompt + example.response for prompt, example in zip(prompts, examples)]
    lengths = tuple(len(s) for s in sequences)
    if batching.limits.packed:
        table = [[i for s in sequences for i in s]]
        starts = [0, *itertools.accumulate(lengths)]
    else:
        table = [s + [batching.pad] * (max(lengths) - len(s)) for s in sequences]
        starts = [row * max(lengths) for row in range(len(prompts))]
    rows = [start + len(prompt) - 1 + t for start, prompt, span in zip(starts, prompts, spans) for t in span]
    own = rows[batching.parallel.rank :: batching.parallel.size]
    return Side(
        torch.tensor(table, dtype=torch.long, device=batching.device),
        torch.tensor(own, dtype=torch.long, device=batching.device),
        lengths,
        tuple(len(p) for p in prompts),
        tuple(e.uid for e in examples),
        Segments(lengths) if batching.limits.packed else None,
    )


def check_alignment(sides: Mapping[str, Side], targets_N: Tensor) -> None:
    """Check that row j of every side predicts response token j: a shift by one would train on another position.

    Args:
        sides: By name: ids, and the rows that carry loss.
        targets_N: The response ids at those rows.

    Raises:
        ValueError: The id after a row is another one.
    """
    for name, side in sides.items():
        following = side.ids_BT.flatten()[side.rows_N + 1]
        if not torch.equal(following, targets_N):
            raise ValueError(f"the {name}'s rows don't predict the response's tokens")
