"""Which responses share a forward pass, and on which rank.

In: the prompt and response lengths of all rollouts. Out: shards of batches, the same on every rank and for every
number of ranks, so that a sample's scores don't depend on how many ranks share the work. A shard holds whole
questions and is what a restart resumes from; a batch is one forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nopsd.rollout.types import Rollout


@dataclass(frozen=True)
class Span:
    """The scored part of one rollout: response positions `start` <= t < `stop` of `rollouts[index]`."""

    index: int
    start: int
    stop: int


Batch = tuple[int, ...]  # indices of rollouts
Shard = tuple[Batch, ...]


def scored_span(rollout: Rollout, index: int, think_ids: tuple[int, int] | None, drop_last: bool) -> Span:
    """The response positions that are scored.

    Args:
        rollout: The response.
        index: Its number among the rollouts.
        think_ids: Ids of the opening and closing thinking tag. The thinking is left out: what precedes the last closing
            tag, or all of it if it is open. None: nothing is left out.
        drop_last: Leave the last position out (`neuron.drop_last_position`).
    """
    stop = len(rollout.response_ids) - (1 if drop_last else 0)
    start = 0
    if think_ids is not None:
        start = _after_thinking(rollout, *think_ids)
    return Span(index, min(start, max(stop, 0)), max(stop, 0))


def plan_shards(rollouts: Sequence[Rollout], max_tokens: int) -> list[Shard]:
    """Batches of rollouts, in shards that are written one file each.

    The longest come first, so that running out of memory shows at once.

    Args:
        rollouts: All that are scored.
        max_tokens: Padded tokens of a batch, at most, unless one sequence alone exceeds it.
    """
    questions: dict[str, list[int]] = {}
    for index in sorted(range(len(rollouts)), key=lambda i: (rollouts[i].uid, rollouts[i].sample)):
        questions.setdefault(rollouts[index].uid, []).append(index)
    length = [len(r.prompt_ids) + len(r.response_ids) for r in rollouts]
    longest = {uid: max(length[i] for i in members) for uid, members in questions.items()}
    shards: list[Shard] = []
    filling: list[int] = []
    for uid in sorted(questions, key=lambda u: (-longest[u], u)):
        members = questions[uid]
        # Questions come longest first, so the first one's length pads them all.
        pad_to = longest[rollouts[filling[0]].uid] if filling else longest[uid]
        if filling and pad_to * (len(filling) + len(members)) > max_tokens:
            shards.append((tuple(filling),))
            filling = []
        if longest[uid] * len(members) > max_tokens and len(members) > 1:
            shards.append(_split(members, max_tokens // longest[uid]))
        else:
            filling += members
    if filling:
        shards.append((tuple(filling),))
    return shards


def assign_shards(shards: Sequence[Shard], unfinished: Sequence[int], world: int) -> list[list[int]]:
    """Share the unfinished shards: the next one goes to the rank with the fewest forward passes so far.

    Args:
        shards: All shards.
        unfinished: Numbers of those that no earlier run has written.
        world: Number of ranks.

    Returns:
        Numbers of shards, by rank.
    """
    assigned: list[list[int]] = [[] for _ in range(world)]
    forwards = [0] * world
    for number in unfinished:
        rank = forwards.index(min(forwards))
        assigned[rank].append(number)
        forwards[rank] += len(shards[number])
    return assigned


@dataclass(frozen=True)
class ForwardPass:
    """One forward pass of a rank: a batch, or none where only other ranks have one."""

    shard: int
    batch: Batch  # () to idle
    ends_shard: bool  # the shard is complete after it
    rollouts: int  # in this pass on all ranks together


def schedule(shards: Sequence[Shard], assigned: Sequence[Sequence[int]], rank: int) -> list[ForwardPass]:
    """This rank's passes: as many as the busiest rank has, since a pass is collective under ZeRO-3."""
    each = [
        [(number, batch, batch == shards[number][-1]) for number in own for batch in shards[number]] for own in assigned
    ]
    passes = []
    for step in range(max(map(len, each))):
        rollouts = sum(len(steps[step][1]) for steps in each if step < len(steps))
        number, batch, ends = each[rank][step] if step < len(each[rank]) else (-1, (), False)
        passes.append(ForwardPass(number, batch, ends, rollouts))
    return passes


def input_ids(rollouts: Sequence[Rollout], batch: Batch) -> torch.Tensor:
    """[B, T] int64, padded on the right: under a causal mask padding there changes nothing before it."""
    rows = [rollouts[i].prompt_ids + rollouts[i].response_ids for i in batch]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, filled in zip(ids, rows):
        row[: len(filled)] = torch.tensor(filled)
    return ids


def _split(members: list[int], size: int) -> Shard:
    size = max(1, size)
    return tuple(tuple(members[i : i + size]) for i in range(0, len(members), size))


def _after_thinking(rollout: Rollout, opening: int, closing: int) -> int:
    ids = rollout.prompt_ids + rollout.response_ids
    tags = [i for i, token in enumerate(ids) if token in (opening, closing)]
    if not tags:
        return 0
    if ids[tags[-1]] == opening:  # still thinking when it ended
        return len(rollout.response_ids)
    return max(0, tags[-1] + 1 - len(rollout.prompt_ids))
