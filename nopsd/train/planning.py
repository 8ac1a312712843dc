"""Who computes what: a step's sequences dealt to lanes and cut into micro-batches (issue 4; SPEC §13.4). Pure.

In: each sequence's question and lengths (`Item`), the number of lanes and what a micro-batch may hold (`Limits`). Out:
for each lane the same number of micro-batches, as positions of items; an empty one is run as a dummy, since ZeRO-3's
ranks gather weights together and would wait for ever on one that has fewer. A lane is a rank, or with
dist.sequence_parallel the ranks that compute one sequence together.

Every rank reckons the plan of all from the same numbers, so nothing is sent. Rollouts of one question go to one lane,
where its teacher prompt is computed once; a question that is more than a lane's even share is cut. Where lanes keep
keys and values over steps (`Limits.owners`), each question has a lane of its own, the same at every step; it is dealt
elsewhere only where the heaviest lane would else have over `SLACK` times what it has by the longest-first rule alone.
Of 16 questions a step so come home 90% on 2 lanes, 78% on 4, 61% on 8, for 5 to 6% more work on the heaviest lane.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from nopsd.errors import ConfigError

Slots = list[list[list[int]]]  # lane -> micro-batch -> positions of items
SLACK = 1.1  # (chosen)
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
    of its question (`context_states` computes it once); None: none does. `owners`: lanes keep questions' prompts.
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
    """What a micro-batch costs, in tokens of a forward: the measure by which lanes are balanced."""
    student, *others = side_tokens(items, limits)
    return TRAINED * student + sum(others)


def owner(uid: str, lanes: int) -> int:
    """A question's own lane, the same at every step; another number of lanes gives others."""
    return int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8], "big") % lanes


def plan(items: Sequence[Item], lanes: int, limits: Limits) -> Slots:
    """Each item once; every lane the same number of micro-batches, the heaviest first."""
    packs = [_packs(items, members, limits) for members in _deal(items, lanes, limits)]
    count = max(1, max(len(lane) for lane in packs))
    return [lane + [[] for _ in range(count - len(lane))] for lane in packs]


def _deal(items: Sequence[Item], lanes: int, limits: Limits) -> list[list[int]]:
    """Positions by lane."""
    if not items:
        return [[] for _ in range(lanes)]
    room = len(items)
    if limits.tokens is None:  # the fewest micro-batches of so many sequences
        room = -(-(-(-len(items) // lanes)) // limits.sequences) * limits.sequences
    parts = _parts(items, lanes, room, limits)
    lightest = _Lanes(items, lanes, room, limits)
    for part in parts:
        lightest.add(part)
    if not limits.owners:
        return lightest.members
    owned, most = _Lanes(items, lanes, room, limits), SLACK * max(lightest.loads)
    elsewhere = [part for part in parts if not owned.add_to(owner(items[part[0]].uid, lanes), part, most)]
    for part in elsewhere:
        owned.add(part)
    return (owned if max(owned.loads) <= most else lightest).members


def _parts(items: Sequence[Item], lanes: int, room: int, limits: Limits) -> list[list[int]]:
    """The rollouts of each question together, or cut where they are over a lane's even share; the heaviest first."""
    groups = _by_uid(items, range(len(items)))
    even = -(-sum(_work(items, g, limits) for g in groups) // lanes)
    parts: list[list[int]] = []
    for group in groups:
        part: list[int] = []
        for index in group:
            if part and (len(part) == room or _work(items, [*part, index], limits) > even):
                parts.append(part)
                part = []
            part.append(index)
        parts.append(part)
    return sorted(parts, key=lambda p: (-_work(items, p, limits), items[p[0]].uid, p))


class _Lanes:
    """Lanes as they fill up."""

    def __init__(self, items: Sequence[Item], lanes: int, room: int, limits: Limits) -> None:
        self.items, self.room, self.limits = items, room, limits
        self.members: list[list[int]] = [[] for _ in range(lanes)]
        self.loads = [0] * lanes

    def add_to(self, lane: int, part: list[int], most: float) -> bool:
        """False, and nothing done, if the lane has no room or would be too heavy."""
        load = self.loads[lane] + _work(self.items, part, self.limits)
        if len(self.members[lane]) + len(part) > self.room or load > most:
            return False
        self.members[lane] += part
        self.loads[lane] = load
        return True

    def add(self, part: list[int]) -> None:
        """To the lightest lane with room for it; one by one, if it has room nowhere as a whole."""
        order = sorted(range(len(self.loads)), key=lambda lane: (self.loads[lane], lane))
        if not any(self.add_to(lane, part, float("inf")) for lane in order):
            for index in part:
                self.add([index])


def _packs(items: Sequence[Item], members: Sequence[int], limits: Limits) -> list[list[int]]:
    """A lane's micro-batches, by first fit in falling size: questions whole, unless cutting them makes fewer."""

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

    whole = sorted(_by_uid(items, members), key=lambda g: (-size(g), items[g[0]].uid))
    cut = first_fit([[i] for group in whole for i in group])
    fitting = [part for group in whole for part in first_fit([[i] for i in group])]
    packs = min(first_fit(fitting), cut, key=len)
    return sorted(packs, key=lambda p: (-size(p), p))


def _by_uid(items: Sequence[Item], positions: Sequence[int]) -> list[list[int]]:
    """Positions by question; of each the longest first."""
    groups: dict[str, list[int]] = {}
    for index in positions:
        groups.setdefault(items[index].uid, []).append(index)
    return [sorted(g, key=lambda i: (-items[i].response, i)) for g in groups.values()]


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
