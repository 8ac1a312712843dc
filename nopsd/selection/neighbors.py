"""The pool questions nearest to each query by neuron overlap: what a retriever returns.

In: a `Table` of all questions (the same on every rank), queries, neuron sets. Out: for each query its m nearest
allowed pool questions, nearest first, ties by uid; the same on every rank and for every sharding. The query itself
and, with `dedup_text`, questions with the same text are not allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nopsd.engine.distributed import Ranks
from nopsd.selection.exchange import RankSets, fetch_sets, list_sets, places, plan_exchange
from nopsd.selection.jaccard import MIB, blocks, distances_of, is_small
from nopsd.selection.sets import Sets

NO_NEIGHBOR = -1  # in place of a neighbor that is not there


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
class Neighbors:
    """For each query m pool numbers, nearest first, padded with NO_NEIGHBOR; distances [Q, m] float64, NaN: none."""

    numbers: np.ndarray
    distances: np.ndarray


def make_table(
    texts: Mapping[str, str], domains: Mapping[str, str] | None = None, allowed: Sequence[str] | None = None
) -> Table:
    """The questions that search works on.

    Args:
        texts: Every pool question's text, by uid.
        domains: Every question's domain; None: all are of one.
        allowed: Uids that may be demonstrations; None: all.
    """
    uids = sorted(texts)
    permitted = np.ones(len(uids), dtype=bool) if allowed is None else np.isin(uids, list(allowed))
    return Table(
        uids,
        _numbered([normalised(texts[u]) for u in uids]),
        _numbered([domains[u] if domains else "" for u in uids]),
        permitted,
    )


def normalised(text: str) -> str:
    """Case-folded with single spaces: what counts as the same question text."""
    return " ".join(text.split()).casefold()


def permitted_pairs(table: Table, queries: np.ndarray, pool: np.ndarray, dedup_text: bool) -> np.ndarray:
    """Which questions may demonstrate which.

    Args:
        table: All questions.
        queries: Numbers of the questions that get demonstrations, [Q].
        pool: Numbers of the questions that may be shown, [P].
        dedup_text: Questions of the same normalised text are never shown to each other (`context.dedup_text`).

    Returns:
        Boolean [Q, P].
    """
    pairs = (queries[:, None] != pool[None]) & (table.domains[queries][:, None] == table.domains[pool][None])
    pairs &= table.allowed[pool][None]
    if dedup_text:
        pairs &= table.texts[queries][:, None] != table.texts[pool][None]
    result: np.ndarray = pairs
    return result


def nearest_sets(
    table: Table,
    queries: np.ndarray,
    sets: RankSets,
    m: int,
    dedup_text: bool,
    ranks: Ranks,
    exchange: str = "auto",
    block_mib: int = 512,
) -> Neighbors:
    """The m nearest of all ranks' questions for each query (the paper's Eq. 6), on every rank. Collective.

    Args:
        table: All questions.
        queries: Numbers of the questions that get demonstrations, [Q].
        sets: This rank's neuron sets.
        m: Demonstrations of a question.
        dedup_text: See `permitted_pairs`.
        ranks: All that search.
        exchange: `auto`, `queries_only` or `gather_all`: what the ranks send each other (`plan_exchange`).
        block_mib: Memory of the search's blocks, MiB. The result depends on neither.

    Raises:
        ConfigError: `block_mib` is too little for any block.
    """
    directory = list_sets(sets, ranks)
    sizes = directory.sizes_by_number(len(table.uids))
    if plan_exchange(exchange, directory, queries, m).kind == "gather_all":
        whole = fetch_sets(sets, np.concatenate(directory.numbers), directory, ranks)
        share = -(-len(queries) // ranks.world)
        own = queries[share * ranks.rank : share * (ranks.rank + 1)]
        found = _gathered(nearest(table, own, whole, whole, m, dedup_text, block_mib), share, ranks)
        return _by_distance(np.concatenate(found)[: len(queries)], queries, sizes, m)
    asked = fetch_sets(sets, queries, directory, ranks)
    found = _gathered(nearest(table, queries, asked, sets, m, dedup_text, block_mib), len(queries), ranks)
    return _by_distance(np.concatenate(found, axis=1), queries, sizes, m)


def nearest(
    table: Table, queries: np.ndarray, asked: RankSets, pool: RankSets, m: int, dedup_text: bool, block_mib: int = 512
) -> np.ndarray:
    """The m nearest of a pool's sets for each query, on this rank alone.

    Args:
        table: All questions. A query meets its own domain's allowed sets alone.
        queries: Numbers of the questions that get demonstrations, [Q].
        asked: The queries' sets.
        pool: The sets that are compared.
        m: Demonstrations of a question.
        dedup_text: See `permitted_pairs`.
        block_mib: Memory of the search's blocks, MiB.

    Returns:
        int64 [Q, m, 2]: numbers of the nearest by (J, uid), and what they share with the query.
    """
    found = np.zeros((len(queries), m, 2), dtype=np.int64)
    found[..., 0] = NO_NEIGHBOR
    rows = places(asked.numbers, queries)
    for domain in np.unique(table.domains[queries]):
        members = np.flatnonzero(table.domains[queries] == domain)
        usable = np.flatnonzero(table.allowed[pool.numbers] & (table.domains[pool.numbers] == domain))
        usable = usable[np.argsort(pool.numbers[usable], kind="stable")]
        if m and len(usable):
            found[members] = _search(
                _Search(
                    table.texts if dedup_text else np.arange(len(table.uids)),
                    Sets(asked.ids, rows[members]),
                    queries[members],
                    Sets(pool.ids, usable),
                    pool.numbers[usable],
                    pool.neurons,
                    block_mib * MIB,
                ),
                m,
            )
    return found


@dataclass(frozen=True)
class _Search:
    """One domain's search: the queries' sets and numbers, the pool's sets and numbers (ascending), bytes at hand.

    Questions of equal `texts` are not shown to each other.
    """

    texts: np.ndarray
    asked: Sets
    queries: np.ndarray
    pool: Sets
    numbers: np.ndarray
    neurons: int
    budget: int


def _search(s: _Search, m: int) -> np.ndarray:
    """As `nearest`."""
    return _by_sorting(s, m) if is_small(s.asked, s.pool) else _by_offering(s, m)


def _by_sorting(s: _Search, m: int) -> np.ndarray:
    found = np.zeros((len(s.queries), m, 2), dtype=np.int64)
    found[..., 0] = NO_NEIGHBOR
    for first, common, distances in blocks(s.asked, s.pool, s.neurons, s.budget):
        rows = s.queries[first : first + len(common)]
        same_text = s.texts[rows][:, None] == s.texts[s.numbers][None]
        distances[(rows[:, None] == s.numbers[None]) | same_text] = np.inf
        order = np.argsort(distances, axis=1, kind="stable")[:, :m]  # stable: ties stay by uid
        near = np.where(np.isinf(np.take_along_axis(distances, order, 1)), NO_NEIGHBOR, s.numbers[order])
        found[first : first + len(common), : order.shape[1], 0] = near
        found[first : first + len(common), : order.shape[1], 1] = np.take_along_axis(common, order, 1)
    return found


def _by_offering(s: _Search, m: int) -> np.ndarray:
    from nopsd.selection.bitcount import Best, SetInfo, offer  # compiles at its first use
    from nopsd.selection.tiles import sweep

    best = np.full((3, len(s.queries), m), NO_NEIGHBOR, dtype=np.int64)  # numbers, intersections, unions
    query_texts, pool_texts = s.texts[s.queries], s.texts[s.numbers]

    def visit(
        rows: slice, columns: slice, counters: np.ndarray, planes: int, row_sizes: np.ndarray, column_sizes: np.ndarray
    ) -> None:
        offer(
            counters,
            planes,
            SetInfo(s.queries[rows], row_sizes, query_texts[rows]),
            SetInfo(s.numbers[columns], column_sizes, pool_texts[columns]),
            Best(*best[:, rows]),
        )

    sweep(s.asked, s.pool, s.neurons, s.budget, visit)
    return np.stack([best[0], np.maximum(best[1], 0)], axis=-1)


def _gathered(found: np.ndarray, rows: int, ranks: Ranks) -> list[np.ndarray]:
    """Every rank's [rows, m, 2]: 8 bytes a candidate, number and intersection as int32."""
    sent = np.full((rows, *found.shape[1:]), NO_NEIGHBOR, dtype=np.int32)
    sent[: len(found)] = found
    return [part.numpy() for part in ranks.gather(torch.from_numpy(sent))]


def _by_distance(candidates: np.ndarray, queries: np.ndarray, sizes: np.ndarray, m: int) -> Neighbors:
    """The m nearest of the candidates [Q, c, 2], by (J, uid)."""
    numbers, common = candidates[..., 0].astype(np.int64), candidates[..., 1].astype(np.int64)
    distances = distances_of(common, sizes[queries][:, None] + sizes[numbers] - common)
    distances[numbers == NO_NEIGHBOR] = np.inf
    order = np.lexsort((numbers, distances), axis=1)[:, :m]
    return Neighbors(np.take_along_axis(numbers, order, 1), np.take_along_axis(distances, order, 1))


def _numbered(names: Sequence[str]) -> np.ndarray:
    """Equal names, equal numbers."""
    place: dict[str, int] = {}
    return np.array([place.setdefault(name, len(place)) for name in names], dtype=np.int64)
