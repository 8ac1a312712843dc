"""Hidden states of a step's sequences, each prompt's keys and values computed once.

In: the packed sides of a step's micro-batches, and the forward of one model (`Forward`). Out: the hidden states at
their loss rows, equal to whole forwards' up to rounding. All rollouts of a question share the prompt [C(x), x]: a pass
records the keys and values of its tokens 0 … P−2 (`engine.packed_attention.Context`), and each rollout's own forward
computes the last prompt token, whose state predicts y_1, and y behind them.

    within a step   any weights: a prompt that several of this rank's sequences begin with
    over steps      frozen weights: the prompts that fit in `teacher.context_mib` of each rank (`PrefixCache`)
    else            whole sequences: a context used once would cost a pass more and save nothing; and sides that are
                    the student's own, so that equal weights give equal bits and their divergence is exactly 0

Which of these a sequence takes depends on the step's plan, the prompts and the budget, never on what is held at the
moment; and each context is computed in a pass of its own, for a product's last bits depend on its number of rows. So a
resumed run, which starts with nothing held, computes the same bits as the unbroken one.

Contexts stay on the model's device: every layer of every pass reads them, and a copy over the bus would cost much of
what they save. Padded rectangles (train.packing=false) are computed whole.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from nopsd.engine.packed_attention import Context, Segments
from nopsd.train.batches import Side

# Tokens from which on a prefix is worth a pass, which under ZeRO-3 gathers all weights once more (our choice)
SHORTEST = 256


class Prefix(NamedTuple):
    """The first `tokens` of a sequence, none of which carries loss. `key`: the SHA-256 of their ids."""

    key: bytes
    tokens: int


Prefixes = list[Prefix | None]  # of each sequence of a side; None: it is computed whole


@dataclass
class PrefixCache:
    """Contexts held over steps, while the weights stand still.

    Questions come around in turns, an epoch long: a cache that drops the least recently used would drop each just
    before its turn. So what is chosen stays, and the rest is never held. `prompts`: all that may be read, by
    precedence. `budget`: bytes of a rank. `groups`: data-parallel groups, each with contexts of its own; a question
    that changes groups is held by each that has read it.
    """

    prompts: Sequence[Sequence[int]]
    budget: int
    groups: int = 1
    held: dict[bytes, Context] = field(default_factory=dict)
    nbytes: int = 0
    token_bytes: int = 0
    chosen: frozenset[bytes] | None = None  # None: a token's bytes aren't known yet

    def choose(self, token_bytes: int) -> frozenset[bytes]:
        """The keys of the prompts that fit, of all groups together."""
        self.token_bytes = token_bytes
        room, found = self.budget * self.groups, set()
        for prompt in self.prompts:
            size, key = (len(prompt) - 1) * token_bytes, key_of(prompt[:-1])
            if len(prompt) > SHORTEST and size <= room and key not in found:
                found.add(key)
                room -= size
        self.chosen = frozenset(found)
        return self.chosen

    def fitting(self, wanted: Sequence[Prefix]) -> list[Prefix]:
        """Those of them, in order, that this rank has room for."""
        room, found = self.budget - self.nbytes, []
        for prefix in wanted:
            if prefix.tokens * self.token_bytes <= room:
                found.append(prefix)
                room -= prefix.tokens * self.token_bytes
        return found

    def admit(self, key: bytes, context: Context) -> None:
        """Hold a chosen context if this rank has room; it is computed again at its next turn otherwise."""
        size = context.nbytes
        if key in (self.chosen or ()) and self.nbytes + size <= self.budget:
            self.held[key] = context
            self.nbytes += size


def key_of(ids: Sequence[int] | Tensor) -> bytes:
    """The content of a prompt: two prompts of one key are one prompt."""
    return hashlib.sha256(torch.as_tensor(ids, dtype=torch.int64).cpu().numpy().tobytes()).digest()


def starts_of(side: Side) -> list[int]:
    """Where each sequence of a packed side begins."""
    lengths = torch.tensor(side.lengths)
    starts: list[int] = (lengths.cumsum(0) - lengths).tolist()
    return starts


def prefixes(side: Side) -> Prefixes:
    """What may be cut off each sequence: its tokens before the first whose state is wanted; None if they are few.

    That token is the prompt's last (P−1), or an earlier one where a row asks for it.
    """
    ids, rows = side.ids_BT[0].cpu(), side.rows_N.cpu()
    starts = torch.tensor(starts_of(side))
    wanted = starts + torch.tensor(side.prompts) - 1
    wanted = wanted.scatter_reduce(0, _sequence_of(rows, side), rows, "amin")
    spans = zip(starts.tolist(), wanted.tolist())
    return [Prefix(key_of(ids[s:w]), w - s) if w - s >= SHORTEST else None for s, w in spans]


def nothing(side: Side) -> Prefixes:
    """Every sequence of the side is computed whole."""
    return [None] * len(side.lengths)


def plan_prefixes(found: Sequence[Prefixes], chosen: Collection[bytes], shared: bool) -> list[Prefixes]:
    """The prefixes to be read from contexts: those chosen to be held, and those that several sequences have."""
    times = Counter(p.key for side in found for p in side if p)
    return [[p if p and (p.key in chosen or (shared and times[p.key] > 1)) else None for p in side] for side in found]


def suffixes(side: Side, found: Prefixes, contexts: Mapping[bytes, Context]) -> tuple[Tensor, Tensor, Segments | None]:
    """The side without its prefixes: ids [1, S'], the same rows' new places [N], and the segments with contexts."""
    if not any(found):
        return side.ids_BT, side.rows_N, side.segments
    cuts = [p.tokens if p else 0 for p in found]
    spans = zip(starts_of(side), side.lengths, cuts)
    ids_1S = torch.cat([side.ids_BT[:, start + cut : start + length] for start, length, cut in spans], 1)
    removed = torch.tensor(cuts).cumsum(0).to(side.rows_N.device)
    rows_N = side.rows_N - removed[_sequence_of(side.rows_N, side)]
    lengths = tuple(length - cut for length, cut in zip(side.lengths, cuts))
    return ids_1S, rows_N, Segments(lengths, tuple(contexts[p.key] if p else None for p in found))


def _sequence_of(rows_N: Tensor, side: Side) -> Tensor:
    """The sequence of each row."""
    ends = torch.tensor(side.lengths, device=rows_N.device).cumsum(0)
    return torch.searchsorted(ends, rows_N, right=True)
