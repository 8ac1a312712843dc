"""Intersections of sets with up to BLOCK_SETS pool sets at a time, by bit-sliced counting. Pure; compiled by numba.

The product X_q X_p^T with X_q sparse and X_p dense, one bit an entry: a pool block's columns are bit
vectors, and |N(q) & N(p)| for all p of the block is the sum of the columns that q names. Carry-save adders
(Harley-Seal) add 16 columns at a time into counters of which plane j holds bit j, so that the work for a pair does
not grow with how many neurons the two share, as a sparse product's does.

In: sets as places within tiles of columns (`place`), a tile's table small enough for a core's cache.
Out: planes [queries, PLANES, WORDS]; from them counts (`unpack`) or an updated list of the best (`offer`). Exact.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeVar, cast

import numpy as np
from numba import njit

logging.getLogger("numba").setLevel(logging.WARNING)  # it logs its bytecode wherever the root logger is at DEBUG

WORDS = 16  # 64-bit words of a column: long enough for vector instructions, short enough for a tile to stay in cache
BLOCK_SETS = 64 * WORDS  # pool sets counted at once
GROUP = 16  # columns added at a time
NO_NEIGHBOR = -1  # in place of a neighbor that is not there
_PLANES = (8, 13, 20, 31)  # counter widths there is code for: sets of up to 2^planes - 1 members

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """The function compiled by numba, without Python's lock."""
    return cast(Function, njit(nogil=True)(function))


def inlined(function: Function) -> Function:
    """The function compiled into its callers."""
    return cast(Function, njit(inline="always")(function))


def planes_for(largest: int) -> int:
    """Bits of a counter that can hold intersections of sets of up to `largest` members."""
    return next(planes for planes in _PLANES if largest < 2**planes)


@compiled
def count_columns(ids: np.ndarray, rows: np.ndarray, counts: np.ndarray) -> None:  # pragma: no cover (compiled)
    """counts [M] += how many of these rows' sets each neuron is in. ids [n, K] int32, padded with -1."""
    for row in rows:
        for k in range(ids.shape[1]):
            if ids[row, k] >= 0:
                counts[ids[row, k]] += 1


@compiled
def count_tiles(
    ids: np.ndarray, rows: np.ndarray, tile_of: np.ndarray, members: np.ndarray, sizes: np.ndarray
) -> None:  # pragma: no cover (compiled)
    """members [rows, tiles] += members in each tile, sizes [rows] = all members. tile_of [M]: -1 for no tile."""
    for i, row in enumerate(rows):
        for k in range(ids.shape[1]):
            if ids[row, k] >= 0:
                sizes[i] += 1
                if tile_of[ids[row, k]] >= 0:
                    members[i, tile_of[ids[row, k]]] += 1


@compiled
def fill_tiles(
    ids: np.ndarray, rows: np.ndarray, tile_of: np.ndarray, place_of: np.ndarray, starts: np.ndarray, places: np.ndarray
) -> None:  # pragma: no cover (compiled)
    """places[starts[i, tile]:] = the members' places in the tile."""
    ahead = np.empty(starts.shape[1], np.int64)
    for i, row in enumerate(rows):
        for tile in range(starts.shape[1]):  # a slice's assignment takes seconds to compile
            ahead[tile] = starts[i, tile]
        for k in range(ids.shape[1]):
            if ids[row, k] >= 0 and tile_of[ids[row, k]] >= 0:
                own = tile_of[ids[row, k]]
                places[ahead[own]] = place_of[ids[row, k]]
                ahead[own] += 1


@compiled
def fill_table(
    table: np.ndarray, places: np.ndarray, starts: np.ndarray, tile: int
) -> None:  # pragma: no cover (compiled)
    """The tile's columns as bit vectors over the pool block's sets, flat [columns, WORDS]."""
    table[:] = 0
    for p in range(starts.shape[0]):
        bit = np.uint64(1) << np.uint64(p & 63)
        for k in range(starts[p, tile], starts[p, tile + 1]):
            table[np.int64(places[k]) * WORDS + (p >> 6)] |= bit


@inlined
def _full_add(a: int, b: int, c: int) -> tuple[int, int]:  # pragma: no cover (compiled)
    half = a ^ b
    return half ^ c, (a & b) | (half & c)


@lru_cache
def adder(planes: int) -> Callable[..., None]:
    """The adder for counters of `planes` bits; compiled at its first call (about a second)."""

    # The 16 columns are copied side by side, with constant strides, and the words innermost: only so does the
    # compiler see that nothing overlaps and use vector instructions.
    @compiled
    def add(
        table: np.ndarray,
        places: np.ndarray,
        starts: np.ndarray,
        tile: int,
        first: int,
        counters: np.ndarray,
        scratch: np.ndarray,
    ) -> None:  # pragma: no cover (compiled)
        """counters [queries, planes * WORDS] += the tile's columns named by queries first, first + 1, …"""
        for q in range(counters.shape[0]):
            count = counters[q]
            for i in range(starts[first + q, tile], starts[first + q, tile + 1], GROUP):
                for j in range(GROUP):
                    column = np.int64(places[i + j]) * WORDS
                    for w in range(WORDS):
                        scratch[j * WORDS + w] = table[column + w]
                for w in range(WORDS):
                    ones, twos = count[w], count[WORDS + w]
                    fours, eights = count[2 * WORDS + w], count[3 * WORDS + w]
                    ones, a = _full_add(ones, scratch[w], scratch[WORDS + w])
                    ones, b = _full_add(ones, scratch[2 * WORDS + w], scratch[3 * WORDS + w])
                    twos, c = _full_add(twos, a, b)
                    ones, a = _full_add(ones, scratch[4 * WORDS + w], scratch[5 * WORDS + w])
                    ones, b = _full_add(ones, scratch[6 * WORDS + w], scratch[7 * WORDS + w])
                    twos, d = _full_add(twos, a, b)
                    fours, e = _full_add(fours, c, d)
                    ones, a = _full_add(ones, scratch[8 * WORDS + w], scratch[9 * WORDS + w])
                    ones, b = _full_add(ones, scratch[10 * WORDS + w], scratch[11 * WORDS + w])
                    twos, c = _full_add(twos, a, b)
                    ones, a = _full_add(ones, scratch[12 * WORDS + w], scratch[13 * WORDS + w])
                    ones, b = _full_add(ones, scratch[14 * WORDS + w], scratch[15 * WORDS + w])
                    twos, d = _full_add(twos, a, b)
                    fours, f = _full_add(fours, c, d)
                    eights, carry = _full_add(eights, e, f)
                    count[w], count[WORDS + w] = ones, twos
                    count[2 * WORDS + w], count[3 * WORDS + w] = fours, eights
                    for j in range(4, planes):
                        bits = count[j * WORDS + w]
                        count[j * WORDS + w] = bits ^ carry
                        carry = bits & carry

    return add


@inlined
def _count_of(count: np.ndarray, planes: int, p: int) -> np.int64:  # pragma: no cover (compiled)
    """The intersection with the block's p-th pool set."""
    value = np.int64(0)
    for j in range(planes):
        value |= np.int64((count[j * WORDS + (p >> 6)] >> np.uint64(p & 63)) & np.uint64(1)) << j
    return value


@compiled
def unpack(counters: np.ndarray, planes: int, common: np.ndarray) -> None:  # pragma: no cover (compiled)
    """common [queries, <=BLOCK_SETS] = the intersections, as integers."""
    for q in range(common.shape[0]):
        for p in range(common.shape[1]):
            common[q, p] = _count_of(counters[q], planes, p)


class SetInfo(NamedTuple):
    """Of queries or pool sets: their numbers among all questions, how many members, and their texts' numbers."""

    numbers: np.ndarray
    sizes: np.ndarray
    texts: np.ndarray


class Best(NamedTuple):
    """The queries' lists of their m nearest [queries, m]: numbers, intersections, unions."""

    numbers: np.ndarray
    common: np.ndarray
    union: np.ndarray


@inlined
def _with_at_least(count: np.ndarray, planes: int, w: int, least: int) -> np.uint64:  # pragma: no cover (compiled)
    """A word's pool sets, one bit each, that have at least `least` members in common with the query."""
    if least >> planes:
        return np.uint64(0)
    more, same = np.uint64(0), ~np.uint64(0)
    for j in range(planes - 1, -1, -1):
        if (least >> j) & 1:
            same &= count[j * WORDS + w]
        else:
            more |= same & count[j * WORDS + w]
            same &= ~count[j * WORDS + w]
    return more | same


@inlined
def _insert(best: Best, q: int, number: int, shared: np.int64, whole: np.int64) -> None:  # pragma: no cover (compiled)
    """Put a pool set into query q's list, behind those as near as it. Distances are fractions of integers."""
    numbers, common, union = best.numbers, best.common, best.union
    m = numbers.shape[1]
    at = m
    while at > 0 and (
        numbers[q, at - 1] == NO_NEIGHBOR or shared * max(union[q, at - 1], 1) > common[q, at - 1] * max(whole, 1)
    ):
        at -= 1
    if at < m:
        for k in range(m - 1, at, -1):
            numbers[q, k], common[q, k], union[q, k] = numbers[q, k - 1], common[q, k - 1], union[q, k - 1]
        numbers[q, at], common[q, at], union[q, at] = number, shared, whole


@compiled
def offer(
    counters: np.ndarray, planes: int, queries: SetInfo, pool: SetInfo, best: Best
) -> None:  # pragma: no cover (compiled)
    """Put the block's pool sets (`SetInfo`) into the queries' lists (`Best`).

    Pool numbers must ascend from call to call: of two equally near the earlier stays ahead. Not offered are the
    query itself and pool sets whose text number equals the query's.
    """
    m, width = best.numbers.shape[1], len(pool.sizes)
    smallest = np.empty((width + 63) // 64, np.int64)  # of each word's sets: a few short ones slow down few others
    for w in range(len(smallest)):
        smallest[w] = pool.sizes[64 * w : 64 * w + 64].min()
    for q in range(counters.shape[0]):
        count = counters[q]
        for w in range(len(smallest)):
            # All nearer than the last of the list have at least this many in common: most words have none.
            least = 0
            if best.numbers[q, m - 1] != NO_NEIGHBOR:
                worst, of = best.common[q, m - 1], max(best.union[q, m - 1], 1)
                least = worst * (queries.sizes[q] + smallest[w]) // (of + worst) + 1
            hits = _with_at_least(count, planes, w, least)
            if hits == 0:
                continue
            for p in range(64 * w, min(64 * w + 64, width)):
                if not (hits >> np.uint64(p & 63)) & np.uint64(1):
                    continue
                if pool.numbers[p] == queries.numbers[q] or pool.texts[p] == queries.texts[q]:
                    continue
                shared = _count_of(count, planes, p)
                _insert(best, q, pool.numbers[p], shared, queries.sizes[q] + pool.sizes[p] - shared)
