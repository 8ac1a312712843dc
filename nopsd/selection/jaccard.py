"""Jaccard distance between neuron sets. Pure.

    I = |N_K(x) & N_K(x')|;  J = 1 - I / (|N_K(x)| + |N_K(x')| - I);  an empty union gives J = 1

In: id lists [N, K] padded with -1, no id twice in a list. Out: distances in float64, from exact integers, so that
equal sets give equal distances on every machine, by every blocking and either product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain

import numpy as np

from nopsd.selection.sets import Sets, all_of, indicator, set_sizes

BLOCK_MIB = 512
MIB = 1 << 20
# Queries x pool x K up to which scipy's sparse product takes less time than compiling the kernel does.
SMALL = 10**9


def distances_of(common: np.ndarray, union: np.ndarray) -> np.ndarray:
    """J float64 of sizes of intersections and unions."""
    result: np.ndarray = 1.0 - common / np.maximum(union, 1)
    return result


def is_small(queries: Sets, pool: Sets) -> bool:
    """Is the sparse product quicker? Its work is the sum of all intersections, at most queries x pool x K."""
    return len(queries) * len(pool) * min(queries.width, pool.width) <= SMALL


def intersections(queries: Sets, pool: Sets, neurons: int, budget: int) -> np.ndarray:
    """Sizes of the intersections of all pairs.

    Args:
        queries: Q sets.
        pool: N sets.
        neurons: Neurons of the model: ids are below.
        budget: Memory of the kernel's blocks, bytes.

    Returns:
        [Q, N] int32.

    Raises:
        ConfigError: `budget` is too little for any block.
    """
    if is_small(queries, pool):
        result: np.ndarray = (indicator(queries, neurons) @ indicator(pool, neurons).T.tocsr()).toarray()
        return result
    from nopsd.selection.bitcount import unpack  # compiles at its first use
    from nopsd.selection.tiles import sweep

    common = np.zeros((len(queries), len(pool)), dtype=np.int32)

    def visit(rows: slice, columns: slice, counters: np.ndarray, planes: int, *sizes: np.ndarray) -> None:
        unpack(counters, planes, common[rows, columns])

    sweep(queries, pool, neurons, budget, visit)
    return common


def blocks(queries: Sets, pool: Sets, neurons: int, budget: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first query, I [rows, N], J [rows, N]): rows so few that they and their product take `budget` bytes."""
    rows = max(1, budget // 2 // (48 * max(1, len(pool))))  # I, U and J, and on the way to them
    pool_sizes = set_sizes(pool.ids)[pool.rows]
    for first in range(0, len(queries), rows):
        block = queries[first : first + rows]
        common = intersections(block, pool, neurons, budget // 2)
        sizes = set_sizes(block.ids[block.rows])
        yield first, common, distances_of(common, sizes[:, None] + pool_sizes[None] - common)


def distance_blocks(
    queries_QK: np.ndarray, pool_NK: np.ndarray, neurons: int, block_mib: int = BLOCK_MIB
) -> Iterator[tuple[int, np.ndarray]]:
    """Jaccard distances block by block, so that memory is bounded.

    Args:
        queries_QK: Neuron ids of each query, int32, padded with -1.
        pool_NK: Those of the pool.
        neurons: Neurons of the model: ids are below.
        block_mib: What is in memory at once, MiB.

    Yields:
        The first query's row, and J float64 [rows, N].
    """
    for first, _, block in blocks(all_of(queries_QK), all_of(pool_NK), neurons, block_mib * MIB):
        yield first, block


def jaccard_distances(queries_QK: np.ndarray, pool_NK: np.ndarray, neurons: int) -> np.ndarray:
    """Jaccard distances at once, for small pools (the paper's Eq. 6).

    Args:
        queries_QK: Neuron ids of each query, int32, padded with -1.
        pool_NK: Those of the pool.
        neurons: Neurons of the model: ids are below.

    Returns:
        J float64 [Q, N].
    """
    found = [block for _, block in distance_blocks(queries_QK, pool_NK, neurons)]
    return np.concatenate(found) if found else np.ones((0, len(pool_NK)))


def mean_pairwise(ids_NK: np.ndarray, neurons: int, block_mib: int = BLOCK_MIB) -> float | None:
    """Mean Jaccard distance over all pairs of different rows (reasoning diversity).

    Summed without rounding error, so that the blocks do not matter.

    Args:
        ids_NK: Neuron ids of each row, int32, padded with -1.
        neurons: Neurons of the model: ids are below.
        block_mib: What is in memory at once, MiB.

    Returns:
        The mean; None with fewer than two rows.
    """
    count = len(ids_NK)
    if count < 2:
        return None
    found = distance_blocks(ids_NK, ids_NK, neurons, block_mib)
    total = math.fsum(chain.from_iterable(block.ravel() for _, block in found))
    own = int(np.count_nonzero(set_sizes(ids_NK) == 0))  # an empty set's distance to itself is 1
    return float((total - own) / (count * (count - 1)))
