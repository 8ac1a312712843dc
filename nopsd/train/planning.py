"""Who computes what: a step's sequences assigned to data-parallel groups and cut into micro-batches. Pure.

In: each sequence's question and lengths (`Item`), the number of groups and what a micro-batch may hold (`Limits`). Out:
for each group the same number of micro-batches, as positions of items; an empty one is run as a dummy, since ZeRO-3's
ranks gather weights together and would wait for ever on one that has fewer. A group is a rank, or with
dist.sequence_parallel the ranks that compute one sequence together.

Every rank computes the plan of all from the same numbers, so nothing is sent. Rollouts of one question go to one group,
where its teacher prompt is computed once; a question that is more than a group's even share is cut. Where groups keep
keys and values over steps (`Limits.owners`), each question has a group of its own, the same at every step; it is
assigned elsewhere only where the heaviest group would else have over `SLACK` times what it has by the longest-first
rule alone. Of 16 questions a step 90% stay in their own group with 2 groups, 78% with 4, 61% with 8, for 5 to 6% more
work on the heaviest group.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from nopsd.config import Config, TrainConfig
from nopsd.errors import ConfigError

Slots = list[list[list[int]]]  # group -> micro-batch -> positions of items
SLACK = 1.1  # chosen, not the paper's
TRAINED = 3  # a token with gradient costs about three without: forward, and two products in the backward


@dataclass(frozen=True)
class Item:
    """One sequence. `prompts`: tokens of the student's prompt, the teacher's, then the auxiliary ones'."""

    uid: str
    prompts: tuple[int, ...]
    response: int


@dataclass(frozen=True)
class Limits:
    """What a micro-batch may hold: `sequences` of them; or, if `tokens` is given, so many tokens instead.

    Tokens are those that the forward of the fullest side computes: a packed row's, or a rectangle's with its padding.
    `once_from`: a packed prompt of the teacher's or an auxiliary one with so many tokens counts once for all rollouts
    of its question (`context_states` computes it once); None: none does. `owners`: groups keep questions' prompts.
    """

    sequences: int
    tokens: int | None = None
    packed: bool = True
    once_from: int | None = None
    owners: bool = False


def check_budget(tokens: int | None, shortest: int, longest: int, max_response: int) -> None:
    """See that some sequence fits in a micro-batch's budget.

    Args:
        tokens: train.micro_tokens; None: there is no budget.
        shortest: Tokens of the shortest prompt of the longer side.
        longest: Of the longest one.
        max_response: Tokens of a response, at most.

    Raises:
        ConfigError: None can.
    """
    if tokens is not None and tokens <= shortest:
        raise ConfigError(
            f"train.micro_tokens={tokens}: the shortest prompt alone has {shortest} tokens, so that every "
            f"sequence would be over it: set {longest + max_response} or more (the longest prompt and "
            "train.max_response), or train.micro_tokens=null and train.micro=1"
        )


def side_tokens(items: Sequence[Item], limits: Limits) -> list[int]:
    """Tokens that each side's forward computes: the student's, the teacher's, the auxiliary ones'."""
    student, *others = zip(*(i.prompts for i in items))
    if not limits.packed:
        return [len(items) * max(p + i.response for i, p in zip(items, side)) for side in (student, *others)]
    responses, long = sum(i.response for i in items), math.inf if limits.once_from is None else limits.once_from
    found = [sum(student) + responses]
    for side in others:
        once = {(i.uid, p) for i, p in zip(items, side) if p >= long}
        found.append(sum(p for _, p in once) + sum(p for p in side if p < long) + responses)
    return found


def work(items: Sequence[Item], limits: Limits) -> int:
    """What a micro-batch costs, in tokens of a forward: the measure by which groups are balanced."""
    student, *others = side_tokens(items, limits)
    return TRAINED * student + sum(others)


def owner(uid: str, groups: int) -> int:
    """A question's own group, the same at every step; another number of groups gives others."""
    return int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8], "big") % groups


def plan(items: Sequence[Item], groups: int, limits: Limits) -> Slots:
    """Share sequences out over groups and pack them into micro-batches, the heaviest first.

    Args:
        items: The step's sequences.
        groups: Data-parallel groups of ranks.
        limits: Of a micro-batch.

    Returns:
        By group, by micro-batch, places in `items`: each once; every group has the same number of micro-batches.
    """
    members = [list(range(len(items)))] if groups == 1 else _balanced(items, groups, limits)
    packs = [_packs(items, group, limits) for group in members]
    count = max(1, max(len(group) for group in packs))
    return [group + [[] for _ in range(count - len(group))] for group in packs]


def _balanced(items: Sequence[Item], groups: int, limits: Limits) -> list[list[int]]:
    """Each group's positions, balanced by work; questions in their own group if that costs little."""
    room = len(items)
    if limits.tokens is None:  # the fewest micro-batches of so many sequences
        room = -(-(-(-len(items) // groups)) // limits.sequences) * limits.sequences
    parts = _parts(items, groups, room, limits)
    members, loads = _share_out(items, parts, groups, room, limits)
    if not limits.owners:
        return members
    most = SLACK * max(loads)
    owned, loads = _share_out(items, parts, groups, room, limits, most)
    return owned if max(loads) <= most else members


def _parts(items: Sequence[Item], groups: int, room: int, limits: Limits) -> list[list[int]]:
    """The rollouts of each question together, or cut where they are over a group's even share; the heaviest first."""
    questions = _by_uid(items, range(len(items)))
    even = -(-sum(work([items[i] for i in q], limits) for q in questions) // groups)
    parts: list[list[int]] = []
    for question in questions:
        part: list[int] = []
        for index in question:
            if part and (len(part) == room or work([items[i] for i in (*part, index)], limits) > even):
                parts.append(part)
                part = []
            part.append(index)
        parts.append(part)
    return sorted(parts, key=lambda p: (-work([items[i] for i in p], limits), items[p[0]].uid, p))


def _share_out(
    items: Sequence[Item], parts: Sequence[list[int]], groups: int, room: int, limits: Limits, most: float | None = None
) -> tuple[list[list[int]], list[int]]:
    """Each group's positions, at most `room`, and its work. A part goes to the lightest group with room for it; one by
    one, if none has. With `most` each is first offered to its question's own group, if that stays within so much."""
    members: list[list[int]] = [[] for _ in range(groups)]
    loads = [0] * groups
    waiting = deque((part, most is not None) for part in parts)
    while waiting:
        part, at_home = waiting.popleft()
        load, limit = work([items[i] for i in part], limits), math.inf
        order = sorted(range(groups), key=lambda group: (loads[group], group))
        if at_home and most is not None:
            order, limit = [owner(items[part[0]].uid, groups)], most
        for group in order:
            if len(members[group]) + len(part) <= room and loads[group] + load <= limit:
                members[group] += part
                loads[group] += load
                break
        else:
            if at_home:
                waiting.append((part, False))  # after all that are offered to their own
            else:
                waiting.extendleft(([index], False) for index in reversed(part))
    return members, loads


def _packs(items: Sequence[Item], members: Sequence[int], limits: Limits) -> list[list[int]]:
    """A group's micro-batches, by first fit in falling size: questions whole, unless cutting them makes fewer."""

    def first_fit(units: Sequence[list[int]]) -> list[list[int]]:
        packs: list[list[int]] = []
        for unit in units:
            for pack in packs:
                both = [items[i] for i in (*pack, *unit)]
                if (
                    len(both) <= limits.sequences
                    if limits.tokens is None
                    else max(side_tokens(both, limits)) <= limits.tokens
                ):
                    pack += unit
                    break
            else:
                packs.append([*unit])
        return packs

    whole = _by_uid(items, members)
    whole.sort(key=lambda q: (-max(side_tokens([items[i] for i in q], limits)), items[q[0]].uid))
    cut = first_fit([[i] for question in whole for i in question])
    fitting = [part for question in whole for part in first_fit([[i] for i in question])]
    packs = min(first_fit(fitting), cut, key=len)
    return sorted(packs, key=lambda p: (-max(side_tokens([items[i] for i in p], limits)), p))


def _by_uid(items: Sequence[Item], positions: Sequence[int]) -> list[list[int]]:
    """Positions by question; of each the longest first."""
    questions: dict[str, list[int]] = {}
    for index in positions:
        questions.setdefault(items[index].uid, []).append(index)
    return [sorted(q, key=lambda i: (-items[i].response, i)) for q in questions.values()]


def retained_of(batch: int, share: float) -> int:
    """How many of a batch's questions are from elsewhere: the share, rounded, one of either kind at least; 0: none."""
    return min(batch - 1, max(1, math.floor(share * batch + 0.5))) if share else 0


def settled(train: TrainConfig, questions: int) -> TrainConfig:
    """`steps` of `epochs`, every question so often at least; `warmup` of `warmup_ratio`, rounded up as transformers'
    trainer does. What is null leaves `steps` or `warmup` as it is."""
    steps, warmup = train.steps, train.warmup
    if train.epochs is not None:
        own = train.batch - retained_of(train.batch, train.retain.share)  # of the questions that are selected
        steps = max(1, math.ceil(Fraction(str(train.epochs)) * questions / own))
    if train.warmup_ratio is not None:
        warmup = math.ceil(Fraction(str(train.warmup_ratio)) * steps)
    return replace(train, steps=steps, warmup=warmup)


def lr_at(step: int, config: TrainConfig) -> float:
    """Learning rate of a step (from 0): a linear rise over `warmup` steps, then constant, or a cosine to 0."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def is_due(every: int, done: int, steps: int) -> bool:
    """Whether what happens every so many steps does after `done` of them: after the last one too; 0: never."""
    return every > 0 and (done % every == 0 or done == steps)


def watched(config: Config) -> bool:
    """Whether the served policy is measured while it trains."""
    return config.train.probe_every > 0 or config.eval.every > 0
