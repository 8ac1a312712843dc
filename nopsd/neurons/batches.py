"""Which responses are scored together, and on which rank (SPEC §13.1).

In: the prompt and response lengths of all rollouts. Out: bundles of batches, the same on every rank and for
every number of ranks, so that a sample's scores don't depend on how many ranks share the work. A bundle holds
whole questions and is what a restart takes up again; a batch is one forward pass.
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
Bundle = tuple[Batch, ...]


def scored_span(rollout: Rollout, index: int, think_ids: tuple[int, int] | None, drop_last: bool) -> Span:
    """`think_ids` (opening, closing) drops the thinking: what precedes the last closing tag, or all if it is open."""
    stop = len(rollout.response_ids) - (1 if drop_last else 0)
    start = 0
    if think_ids is not None:
        start = _after_thinking(rollout, *think_ids)
    return Span(index, min(start, max(stop, 0)), max(stop, 0))


def plan_bundles(rollouts: Sequence[Rollout], max_tokens: int) -> list[Bundle]:
    """Longest first, so that running out of memory shows at once. A batch's padded tokens stay within `max_tokens`
    unless one sequence alone exceeds it."""
    questions: dict[str, list[int]] = {}
    for index in sorted(range(len(rollouts)), key=lambda i: (rollouts[i].uid, rollouts[i].sample)):
        questions.setdefault(rollouts[index].uid, []).append(index)
    length = [len(r.prompt_ids) + len(r.response_ids) for r in rollouts]
    longest = {uid: max(length[i] for i in members) for uid, members in questions.items()}
    bundles: list[Bundle] = []
    filling: list[int] = []
    for uid in sorted(questions, key=lambda u: (-longest[u], u)):
        members = questions[uid]
        # Questions come longest first, so the first one's length pads them all.
        pad_to = longest[rollouts[filling[0]].uid] if filling else longest[uid]
        if filling and pad_to * (len(filling) + len(members)) > max_tokens:
            bundles.append((tuple(filling),))
            filling = []
        if longest[uid] * len(members) > max_tokens and len(members) > 1:
            bundles.append(_split(members, max_tokens // longest[uid]))
        else:
            filling += members
    if filling:
        bundles.append((tuple(filling),))
    return bundles


def deal(bundles: Sequence[Bundle], open_bundles: Sequence[int], world: int) -> list[list[int]]:
    """The bundles each rank scores: in turn to the rank with the fewest forward passes so far."""
    hands: list[list[int]] = [[] for _ in range(world)]
    forwards = [0] * world
    for number in open_bundles:
        rank = forwards.index(min(forwards))
        hands[rank].append(number)
        forwards[rank] += len(bundles[number])
    return hands


@dataclass(frozen=True)
class Turn:
    """One forward pass of a rank: a batch, or none where only others have one."""

    bundle: int
    batch: Batch  # () to idle
    keep: bool  # the batch's sets are this rank's to write
    ends: bool  # the bundle is complete after it
    rollouts: int  # scored in this turn on all ranks together


def dealt_turns(bundles: Sequence[Bundle], hands: Sequence[Sequence[int]], rank: int) -> list[Turn]:
    """This rank's turns if each rank scores its hand: as many as the busiest rank has."""
    each = [
        [(number, batch, batch == bundles[number][-1]) for number in hand for batch in bundles[number]]
        for hand in hands
    ]
    turns = []
    for step in range(max(map(len, each))):
        rollouts = sum(len(steps[step][1]) for steps in each if step < len(steps))
        number, batch, ends = each[rank][step] if step < len(each[rank]) else (-1, (), False)
        turns.append(Turn(number, batch, bool(batch), ends, rollouts))
    return turns


def common_turns(bundles: Sequence[Bundle], open_bundles: Sequence[int], kept: Sequence[int]) -> list[Turn]:
    """Turns if all ranks score every open bundle together, and this one keeps the sets of `kept`."""
    return [
        Turn(number, batch, number in kept, batch == bundles[number][-1], len(batch))
        for number in open_bundles
        for batch in bundles[number]
    ]


def input_ids(rollouts: Sequence[Rollout], batch: Batch) -> torch.Tensor:
    """[B, T] int64, padded on the right: under a causal mask padding there changes nothing before it."""
    rows = [rollouts[i].prompt_ids + rollouts[i].response_ids for i in batch]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, filled in zip(ids, rows):
        row[: len(filled)] = torch.tensor(filled)
    return ids


def _split(members: list[int], size: int) -> Bundle:
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
