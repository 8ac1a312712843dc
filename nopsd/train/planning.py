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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from nopsd.config import TrainConfig
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

    def allow(self, items: Sequence[Item]) -> bool:
        if self.tokens is None:
            return len(items) <= self.sequences
        return len(items) == 1 or max(side_tokens(items, self)) <= self.tokens


def check_budget(tokens: int | None, shortest: int, longest: int, max_response: int) -> None:
    """ConfigError if no sequence can be within the budget. `shortest`, `longest`: prompts of the longer side."""
    if tokens is not None and tokens <= shortest:
        raise ConfigError(
            f"train.micro_tokens={tokens}: the shortest prompt alone has {shortest} tokens, so that every "
            f"sequence would be over it: set {longest + max_response} or more (the longest prompt and "
            "train.max_response), or train.micro_tokens=null and train.micro=1"
        )


def side_tokens(items: Sequence[Item], limits: Limits) -> list[int]:
    """Tokens that each side's forward computes: the student's, the teacher's, the auxiliary ones'."""
    if not limits.packed:
        return [len(items) * max(p + i.response for i, p in zip(items, side)) for side in _sides(items)]
    responses = sum(i.response for i in items)
    student, *others = _sides(items)
    return [sum(student) + responses, *(_prompts(items, side, limits.once_from) + responses for side in others)]


def work(items: Sequence[Item], limits: Limits) -> int:
    """What a micro-batch costs, in tokens of a forward: the measure by which groups are balanced."""
    student, *others = side_tokens(items, limits)
    return TRAINED * student + sum(others)


def owner(uid: str, groups: int) -> int:
    """A question's own group, the same at every step; another number of groups gives others."""
    return int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8], "big") % groups


def plan(items: Sequence[Item], groups: int, limits: Limits) -> Slots:
    """Each item once; every group the same number of micro-batches, the heaviest first."""
    packs = [_packs(items, members, limits) for members in _assign(items, groups, limits)]
    count = max(1, max(len(group) for group in packs))
    return [group + [[] for _ in range(count - len(group))] for group in packs]


def _assign(items: Sequence[Item], groups: int, limits: Limits) -> list[list[int]]:
    """Positions by group."""
    if not items:
        return [[] for _ in range(groups)]
    room = len(items)
    if limits.tokens is None:  # the fewest micro-batches of so many sequences
        room = -(-(-(-len(items) // groups)) // limits.sequences) * limits.sequences
    parts = _parts(items, groups, room, limits)
    lightest = _Groups(items, groups, room, limits)
    for part in parts:
        lightest.add(part)
    if not limits.owners:
        return lightest.members
    owned, most = _Groups(items, groups, room, limits), SLACK * max(lightest.loads)
    elsewhere = [part for part in parts if not owned.add_to(owner(items[part[0]].uid, groups), part, most)]
    for part in elsewhere:
        owned.add(part)
    return (owned if max(owned.loads) <= most else lightest).members


def _parts(items: Sequence[Item], groups: int, room: int, limits: Limits) -> list[list[int]]:
    """The rollouts of each question together, or cut where they are over a group's even share; the heaviest first."""
    questions = _by_uid(items, range(len(items)))
    even = -(-sum(_work(items, q, limits) for q in questions) // groups)
    parts: list[list[int]] = []
    for question in questions:
        part: list[int] = []
        for index in question:
            if part and (len(part) == room or _work(items, [*part, index], limits) > even):
                parts.append(part)
                part = []
            part.append(index)
        parts.append(part)
    return sorted(parts, key=lambda p: (-_work(items, p, limits), items[p[0]].uid, p))


class _Groups:
    """Lanes as they fill up."""

    def __init__(self, items: Sequence[Item], groups: int, room: int, limits: Limits) -> None:
        self.items, self.room, self.limits = items, room, limits
        self.members: list[list[int]] = [[] for _ in range(groups)]
        self.loads = [0] * groups

    def add_to(self, group: int, part: list[int], most: float) -> bool:
        """False, and nothing done, if the group has no room or would be too heavy."""
        load = self.loads[group] + _work(self.items, part, self.limits)
        if len(self.members[group]) + len(part) > self.room or load > most:
            return False
        self.members[group] += part
        self.loads[group] = load
        return True

    def add(self, part: list[int]) -> None:
        """To the lightest group with room for it; one by one, if it has room nowhere as a whole."""
        order = sorted(range(len(self.loads)), key=lambda group: (self.loads[group], group))
        if not any(self.add_to(group, part, float("inf")) for group in order):
            for index in part:
                self.add([index])


def _packs(items: Sequence[Item], members: Sequence[int], limits: Limits) -> list[list[int]]:
    """A group's micro-batches, by first fit in falling size: questions whole, unless cutting them makes fewer."""

    def size(indices: Sequence[int]) -> int:
        return max(side_tokens([items[i] for i in indices], limits))

    def first_fit(units: Sequence[list[int]]) -> list[list[int]]:
        packs: list[list[int]] = []
        for unit in units:
            found = next((p for p in packs if limits.allow([items[i] for i in (*p, *unit)])), None)
            if found is None:
                packs.append(found := [])
            found += unit
        return packs

    whole = sorted(_by_uid(items, members), key=lambda q: (-size(q), items[q[0]].uid))
    cut = first_fit([[i] for question in whole for i in question])
    fitting = [part for question in whole for part in first_fit([[i] for i in question])]
    packs = min(first_fit(fitting), cut, key=len)
    return sorted(packs, key=lambda p: (-size(p), p))


def _by_uid(items: Sequence[Item], positions: Sequence[int]) -> list[list[int]]:
    """Positions by question; of each the longest first."""
    questions: dict[str, list[int]] = {}
    for index in positions:
        questions.setdefault(items[index].uid, []).append(index)
    return [sorted(q, key=lambda i: (-items[i].response, i)) for q in questions.values()]


def _work(items: Sequence[Item], indices: Sequence[int], limits: Limits) -> int:
    return work([items[i] for i in indices], limits)


def _sides(items: Sequence[Item]) -> list[tuple[int, ...]]:
    return list(zip(*(i.prompts for i in items)))


def _prompts(items: Sequence[Item], side: Sequence[int], once_from: int | None) -> int:
    """A side's prompt tokens, those of long prompts once a question."""
    if once_from is None:
        return sum(side)
    shared = {(i.uid, p) for i, p in zip(items, side) if p >= once_from}
    return sum(p for _, p in shared) + sum(p for p in side if p < once_from)


def settled(train: TrainConfig, questions: int) -> TrainConfig:
    """`steps` of `epochs`, every question so often at least; `warmup` of `warmup_ratio`, rounded up as transformers'
    trainer does. What is null leaves `steps` or `warmup` as it is."""
    steps, warmup = train.steps, train.warmup
    if train.epochs is not None:
        steps = max(1, math.ceil(Fraction(str(train.epochs)) * questions / train.batch))
    if train.warmup_ratio is not None:
        warmup = math.ceil(Fraction(str(train.warmup_ratio)) * steps)
    return replace(train, steps=steps, warmup=warmup)
