"""Neuron sets cut into tiles of columns, and blocks of them that fit a memory budget. Pure.

In: ids [n, K] int32 padded with -1, a budget in bytes. Out: `Visit` is called with every block of queries x pool sets
and its counters (nopsd.selection.bitcount); blocks of one query come in the order of the pool. What is found never
depends on the blocks: they are exact integers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from nopsd.errors import ConfigError
from nopsd.selection.bitcount import (
    BLOCK_SETS,
    GROUP,
    WORDS,
    adder,
    count_columns,
    count_tiles,
    fill_table,
    fill_tiles,
    planes_for,
)
from nopsd.selection.sets import Sets

MIB = 1 << 20
LEAST_COLUMNS = 8_192  # neurons of a tile: its table, 128 bytes a neuron, fits a core's own cache
MOST_COLUMNS = 32_768  # its table no longer fits the shared cache; places are uint16
MOST_TILES = 64  # wanted: a query should have more members in a tile than it is filled up with
STRIP = 4096  # queries whose counters a thread has at once, at most: they fit the shared cache
_LEAST_STRIP, _LEAST_POOL = 16, 64

# (places of the queries, places of the pool sets, counters, planes, query sizes, pool sizes)
Visit = Callable[[slice, slice, np.ndarray, int, np.ndarray, np.ndarray], None]


@dataclass(frozen=True)
class Layout:
    """Where the neurons are that any query has, the most frequent first. Others cannot be shared with a query."""

    tile_of: np.ndarray  # [M] int32, -1: none
    place_of: np.ndarray  # [M] uint16
    tiles: int
    columns: int  # neurons of a tile


@dataclass(frozen=True)
class Parts:
    """Sets by tile: row i's members in tile t are places[starts[i, t]:starts[i, t + 1]]."""

    places: np.ndarray  # uint16; filled up with the place of a column of zeros
    starts: np.ndarray  # [n, tiles + 1] int64
    sizes: np.ndarray  # [n] int64: members in all


@dataclass(frozen=True)
class Blocks:
    """How many sets are in memory at once: queries, pool sets, queries being counted by one thread."""

    queries: int
    pool: int
    strip: int


def make_layout(queries: Sets, neurons: int) -> Layout:
    """Tiles of the neurons that the queries have, by falling frequency."""
    counts = np.zeros(neurons, dtype=np.int32)
    count_columns(queries.ids, queries.rows, counts)
    used = int(np.count_nonzero(counts))
    by_frequency = np.argsort(-counts, kind="stable")[:used]
    tile_of, place_of = np.full(neurons, -1, dtype=np.int32), np.zeros(neurons, dtype=np.uint16)
    columns = columns_for(neurons)
    tile_of[by_frequency], place_of[by_frequency] = np.divmod(np.arange(used), columns)
    return Layout(tile_of, place_of, -(-used // columns), columns)


def columns_for(neurons: int) -> int:
    """Neurons of a tile."""
    return min(MOST_COLUMNS, max(LEAST_COLUMNS, -(-neurons // MOST_TILES)))


def make_parts(sets: Sets, layout: Layout, group: int = 1) -> Parts:
    """Sets by tile, each filled up to a multiple of `group` members."""
    members = np.zeros((len(sets), layout.tiles), dtype=np.int64)
    sizes = np.zeros(len(sets), dtype=np.int64)
    count_tiles(sets.ids, sets.rows, layout.tile_of, members, sizes)
    members += -members % group
    ends = np.cumsum(members.ravel()).reshape(members.shape)
    total = int(members.sum())
    starts = np.full((len(sets), layout.tiles + 1), total, dtype=np.int64)
    starts[:, :-1] = ends - members
    starts[:-1, -1] = starts[1:, 0]
    places = np.full(total, layout.columns, dtype=np.uint16)
    fill_tiles(sets.ids, sets.rows, layout.tile_of, layout.place_of, starts, places)
    return Parts(places, starts, sizes)


def plan_blocks(budget: int, query_width: int, pool_width: int, neurons: int, threads: int, planes: int) -> Blocks:
    """The largest blocks within a budget: a quarter each for pool sets and counters, the rest for queries.

    Args:
        budget: Bytes.
        query_width: Members of a query's set, at most; `pool_width` of a pool set.
        neurons: How many there can be in a layout.
        threads: That work at once.
        planes: Bits of a counter.

    Raises:
        ConfigError: The least blocks do not fit.
    """
    tiles = -(-neurons // columns_for(neurons))
    per_query = 2 * (query_width + (GROUP - 1) * min(tiles, query_width)) + 32 * (tiles + 1)
    per_pool = 2 * pool_width + 32 * (tiles + 1)
    per_counted = 8 * planes * WORDS
    tables = threads * 8 * WORDS * (columns_for(neurons) + 1 + GROUP)
    strip = min(STRIP, (budget - tables) // 4 // (threads * per_counted))
    pool = min(BLOCK_SETS, (budget - tables) // 4 // per_pool)
    queries = (budget - tables - pool * per_pool - threads * strip * per_counted) // per_query
    if strip < _LEAST_STRIP or pool < _LEAST_POOL or queries < _LEAST_STRIP:
        least = tables + max(
            4 * max(_LEAST_STRIP * threads * per_counted, _LEAST_POOL * per_pool), 2 * _LEAST_STRIP * per_query
        )
        raise ConfigError(
            f"dist.block_mib={budget / MIB:g} is too little to compare sets of {max(query_width, pool_width)} neurons "
            f"of {neurons} with {threads} threads: set it to {-(-least // MIB)} or more"
        )
    return Blocks(queries, pool, strip)


def sweep(queries: Sets, pool: Sets, neurons: int, budget: int, visit: Visit) -> None:
    """Intersect all queries with all pool sets, block by block.

    Args:
        queries: Sets.
        pool: Sets.
        neurons: Neurons of the model: ids are below.
        budget: Memory of the blocks, bytes.
        visit: Called with every block; different blocks of queries may be visited by different threads.
    """
    if not len(queries) or not len(pool):
        return
    threads = torch.get_num_threads()
    planes = planes_for(max(queries.width, 1))
    blocks = plan_blocks(budget, queries.width, pool.width, neurons, threads, planes)
    with ThreadPoolExecutor(threads) as workers:
        for batch in _slices(0, len(queries), blocks.queries):
            layout = make_layout(queries[batch], neurons)
            query_parts = make_parts(queries[batch], layout, GROUP)
            strip = min(blocks.strip, -(-(batch.stop - batch.start) // threads))
            counter = _Counter(layout, planes, strip)
            for columns in _slices(0, len(pool), blocks.pool):
                pool_parts = make_parts(pool[columns], layout)

                def count(rows: slice) -> None:
                    counters = counter(query_parts, pool_parts, rows)  # noqa: B023 (done within the iteration)
                    places = slice(batch.start + rows.start, batch.start + rows.stop)  # noqa: B023
                    visit(places, columns, counters, planes, query_parts.sizes[rows], pool_parts.sizes)  # noqa: B023

                list(workers.map(count, _slices(0, batch.stop - batch.start, strip)))


class _Counter:
    """Counts strips of queries against a pool block; every thread has a table and counters of its own."""

    def __init__(self, layout: Layout, planes: int, strip: int) -> None:
        self._layout, self._planes, self._strip, self._own = layout, planes, strip, threading.local()

    def __call__(self, queries: Parts, pool: Parts, rows: slice) -> np.ndarray:
        if not hasattr(self._own, "table"):
            self._own.table = np.zeros((self._layout.columns + 1) * WORDS, dtype=np.uint64)
            self._own.counters = np.zeros((self._strip, self._planes * WORDS), dtype=np.uint64)
            self._own.scratch = np.zeros(GROUP * WORDS, dtype=np.uint64)
        counters = self._own.counters[: rows.stop - rows.start]
        counters[:] = 0
        add = adder(self._planes)
        for tile in range(self._layout.tiles):
            fill_table(self._own.table, pool.places, pool.starts, tile)
            add(self._own.table, queries.places, queries.starts, tile, rows.start, counters, self._own.scratch)
        result: np.ndarray = counters
        return result


def _slices(start: int, stop: int, step: int) -> Iterator[slice]:
    return (slice(first, min(first + step, stop)) for first in range(start, stop, step))
