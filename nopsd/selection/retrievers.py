"""Which pool questions become a question's demonstrations (SPEC §5). A registry of retrievers with one interface.

In: a `Table` of all questions (the same on every rank), this rank's neuron sets, the queries. Out: for each query
its m nearest allowed pool questions, nearest first, ties by uid; the same on every rank and for every sharding.
The query itself and, with `dedup_text`, questions with the same text are not allowed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nopsd.config import ContextConfig
from nopsd.engine.distributed import Ranks
from nopsd.selection.exchange import Shard, gather_sets, take
from nopsd.selection.jaccard import distance_blocks

NOBODY = -1  # in place of a neighbour that is not there


@dataclass(frozen=True)
class Table:
    """All questions by ascending uid; a question's number is its place in it, so numbers order as uids do."""

    uids: list[str]
    texts: np.ndarray  # [N] int64: equal normalised texts have equal numbers
    domains: np.ndarray  # [N] int64
    allowed: np.ndarray  # [N] bool: may be a demonstration

    def numbers(self, uids: Sequence[str]) -> np.ndarray:
        place = {uid: i for i, uid in enumerate(self.uids)}
        return np.array([place[uid] for uid in uids], dtype=np.int64)


@dataclass(frozen=True)
class Neighbours:
    """For each query m pool numbers, nearest first, padded with NOBODY; distances [Q, m] float64, NaN: none."""

    numbers: np.ndarray
    distances: np.ndarray


def make_table(
    texts: Mapping[str, str], domains: Mapping[str, str] | None = None, allowed: Sequence[str] | None = None
) -> Table:
    """`texts`: every pool question's text by uid; `allowed`: the uids that may be demonstrations (None: all)."""
    uids = sorted(texts)
    permitted = np.ones(len(uids), dtype=bool) if allowed is None else np.isin(uids, list(allowed))
    return Table(uids, _numbered([normalised(texts[u]) for u in uids]),
                 _numbered([domains[u] if domains else "" for u in uids]), permitted)


def normalised(text: str) -> str:
    """Case-folded with single spaces: what counts as the same question text."""
    return " ".join(text.split()).casefold()


def permitted_pairs(table: Table, queries: np.ndarray, pool: np.ndarray, dedup_text: bool) -> np.ndarray:
    """Boolean [Q, P]: may pool question p be a demonstration of query q?"""
    pairs = (queries[:, None] != pool[None]) & (table.domains[queries][:, None] == table.domains[pool][None])
    pairs &= table.allowed[pool][None]
    if dedup_text:
        pairs &= table.texts[queries][:, None] != table.texts[pool][None]
    return pairs


def nearest(table: Table, queries: Shard, pool: Shard, m: int, dedup_text: bool) -> Neighbours:
    """The m nearest of `pool` for each of `queries`, by (J, uid)."""
    numbers = np.full((len(queries.numbers), m), NOBODY, dtype=np.int64)
    distances = np.full(numbers.shape, np.inf)
    by_uid = np.argsort(pool.numbers)
    sorted_numbers, sorted_ids = pool.numbers[by_uid], pool.ids[by_uid]
    for first, block in distance_blocks(queries.ids, sorted_ids, queries.neurons):
        rows = slice(first, first + len(block))
        block[~permitted_pairs(table, queries.numbers[rows], sorted_numbers, dedup_text)] = np.inf
        order = np.argsort(block, axis=1, kind="stable")[:, :m]  # stable: ties stay by uid
        found = np.take_along_axis(block, order, 1)
        numbers[rows, : order.shape[1]] = np.where(np.isinf(found), NOBODY, sorted_numbers[order])
        distances[rows, : order.shape[1]] = found
    return Neighbours(numbers, distances)


def merge(parts: Sequence[Neighbours], m: int) -> Neighbours:
    """The m nearest of several ranks' candidates, by (J, uid)."""
    numbers = np.concatenate([p.numbers for p in parts], 1)
    distances = np.concatenate([p.distances for p in parts], 1)
    order = np.lexsort((numbers, distances), axis=1)[:, :m]
    return Neighbours(np.take_along_axis(numbers, order, 1), np.take_along_axis(distances, order, 1))


# (table, query numbers, this rank's shard, config, ranks, exchange) -> neighbours of all queries, on every rank
Retriever = Callable[[Table, np.ndarray, Shard, ContextConfig, Ranks, str], Neighbours]


def _neuron_jaccard(
    table: Table, queries: np.ndarray, shard: Shard, config: ContextConfig, ranks: Ranks, exchange: str
) -> Neighbours:
    if exchange == "gather_all":
        whole = gather_sets(shard, np.ones(len(shard.numbers), dtype=bool), ranks)
        return nearest(table, take(whole, queries), whole, config.m, config.dedup_text)
    asked = gather_sets(shard, np.isin(shard.numbers, queries), ranks)
    found = nearest(table, take(asked, queries), shard, config.m, config.dedup_text)
    numbers = ranks.gather(torch.from_numpy(found.numbers))
    distances = ranks.gather(torch.from_numpy(found.distances))
    return merge([Neighbours(n.numpy(), d.numpy()) for n, d in zip(numbers, distances)], config.m)


def _random(
    table: Table, queries: np.ndarray, shard: Shard, config: ContextConfig, ranks: Ranks, exchange: str
) -> Neighbours:
    """Uniform among those allowed, from seed, query and candidate alone."""
    numbers = np.full((len(queries), config.m), NOBODY, dtype=np.int64)
    everyone = np.arange(len(table.uids))
    for row, query in enumerate(queries):
        free = everyone[permitted_pairs(table, queries[row : row + 1], everyone, config.dedup_text)[0]]
        generator = np.random.Generator(np.random.Philox(_key(config.seed, table.uids[query])))
        drawn = generator.permutation(free)[: config.m]
        numbers[row, : len(drawn)] = drawn
    return Neighbours(numbers, np.full(numbers.shape, np.nan))


def _none(
    table: Table, queries: np.ndarray, shard: Shard, config: ContextConfig, ranks: Ranks, exchange: str
) -> Neighbours:
    return Neighbours(np.zeros((len(queries), 0), dtype=np.int64), np.zeros((len(queries), 0)))


RETRIEVERS: dict[str, Retriever] = {"neuron_jaccard": _neuron_jaccard, "random": _random, "none": _none}


def _key(seed: int, uid: str) -> int:
    return int.from_bytes(hashlib.sha256(f"context\0{seed}\0{uid}".encode()).digest()[:8], "big")


def _numbered(names: Sequence[str]) -> np.ndarray:
    """Equal names, equal numbers."""
    place: dict[str, int] = {}
    return np.array([place.setdefault(name, len(place)) for name in names], dtype=np.int64)
