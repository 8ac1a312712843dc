"""Jaccard distance between neuron sets (SPEC §5). Pure.

    I = |N_K(x) & N_K(x')|;  J = 1 - I / (|N_K(x)| + |N_K(x')| - I);  an empty union gives J = 1

In: id lists [N, K] padded with -1. Out: distances in float64, from exact integers, so that equal sets give equal
distances on every machine. Only blocks of query rows are ever dense.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse

QUERY_BLOCK = 256  # rows of queries whose distances to the whole pool are in memory at once


def indicator(ids_NK: np.ndarray, neurons: int) -> sparse.csr_array:
    """0/1 matrix [N, neurons] in CSR form, int32."""
    members = ids_NK >= 0
    starts = np.concatenate([[0], np.cumsum(members.sum(1))])
    columns = ids_NK[members]  # row by row, as CSR wants them
    return sparse.csr_array((np.ones(len(columns), np.int32), columns, starts), shape=(len(ids_NK), neurons))


def jaccard_distances(queries_QK: np.ndarray, pool_NK: np.ndarray, neurons: int) -> np.ndarray:
    """J [Q, N] float64, at once: for small Q x N."""
    blocks = [block for _, block in distance_blocks(queries_QK, pool_NK, neurons)]
    return np.concatenate(blocks) if blocks else np.ones((0, len(pool_NK)))


def distance_blocks(queries_QK: np.ndarray, pool_NK: np.ndarray, neurons: int) -> Iterator[tuple[int, np.ndarray]]:
    """(first query row, J [<=QUERY_BLOCK, N]) block by block."""
    pool_transposed = indicator(pool_NK, neurons).T.tocsr()
    pool_sizes = (pool_NK >= 0).sum(1)
    for first in range(0, len(queries_QK), QUERY_BLOCK):
        block = queries_QK[first : first + QUERY_BLOCK]
        common = (indicator(block, neurons) @ pool_transposed).toarray()
        union = (block >= 0).sum(1)[:, None] + pool_sizes[None] - common
        yield first, 1.0 - common / np.maximum(union, 1)


def mean_pairwise(ids_NK: np.ndarray, neurons: int) -> float | None:
    """Mean J over all pairs of different rows (SPEC §1: reasoning diversity); None with fewer than two rows."""
    count = len(ids_NK)
    if count < 2:
        return None
    total = sum(block.sum() for _, block in distance_blocks(ids_NK, ids_NK, neurons))
    own = int(((ids_NK >= 0).sum(1) == 0).sum())  # an empty set's distance to itself is 1
    return float((total - own) / (count * (count - 1)))
