"""`embedding_cos`: the m questions of nearest mean last hidden state, 1 − cos as distance.

In: column `embedding` [N, H]. Out: neighbors by (distance, uid), the same on every machine, for every number of ranks
and every size of block: unit vectors are rounded to a grid of 2^-25, so that products and their sums are integers
below 2^53, which float64 holds exactly in whatever order they are added. Rounding is finer than float32's own.
"""

from __future__ import annotations

import numpy as np
import torch

from nopsd.errors import DataError
from nopsd.selection.retrievers.base import NO_NEIGHBOR, Neighbors, Request, retriever

GRID = 1 << 25
TEMPORARIES = 6  # arrays of the block's size that are alive at once, in float64


@retriever(needs=("embedding",), neurons=False)
def embedding_cos(request: Request) -> Neighbors:
    """Each rank finds the neighbors of a slice of the queries. Collective."""
    grid_NH = on_grid(np.asarray(request.column("embedding")), request.table.uids)
    edges = np.linspace(0, len(request.queries), request.ranks.world + 1).astype(np.int64)
    own = request.queries[edges[request.ranks.rank] : edges[request.ranks.rank + 1]]
    found = _nearest(request, grid_NH, own)
    numbers, distances = (
        torch.cat(request.ranks.all_gather_ragged(torch.from_numpy(part))).numpy()
        for part in (found.numbers, found.distances)
    )
    return Neighbors(numbers, distances)


def on_grid(embedding_NH: np.ndarray, uids: list[str]) -> np.ndarray:
    """Unit vectors on a grid, so that their products are exact.

    Args:
        embedding_NH: Mean last hidden state of each question.
        uids: Names of the rows, for the message.

    Returns:
        Whole numbers in units of 1/GRID, float64 [N, H]; rows of zeros stay.

    Raises:
        DataError: A value isn't finite; the question is named.
    """
    bad = np.flatnonzero(~np.isfinite(embedding_NH).all(axis=1))
    if len(bad):
        raise DataError(f"question {uids[bad[0]]} has an embedding that is not finite: run the signals stage again")
    values = embedding_NH.astype(np.float64)
    norm = np.sqrt((values**2).sum(axis=1, keepdims=True))
    result: np.ndarray = np.rint(np.divide(values, norm, out=np.zeros_like(values), where=norm > 0) * GRID)
    return result


def cosine_distances(queries_QH: np.ndarray, pool_NH: np.ndarray) -> np.ndarray:
    """1 − cos [Q, N] of vectors on the grid; 1 where one is zero."""
    product = queries_QH @ pool_NH.T  # exact: |sums| <= |q||p| < 2^53
    squares = (queries_QH**2).sum(axis=1)[:, None] * (pool_NH**2).sum(axis=1)[None]
    cosine = np.divide(product, np.sqrt(squares), out=np.zeros_like(product), where=squares > 0)
    result: np.ndarray = 1.0 - np.clip(cosine, -1, 1)
    return result


def _nearest(request: Request, grid_NH: np.ndarray, queries: np.ndarray) -> Neighbors:
    m = request.config.m
    numbers = np.full((len(queries), m), NO_NEIGHBOR, dtype=np.int64)
    distances = np.full(numbers.shape, np.inf)
    rows = max(1, request.block_mib * (1 << 20) // (8 * TEMPORARIES * max(len(grid_NH), 1)))
    for first in range(0, len(queries), rows):
        asked = queries[first : first + rows]
        block = cosine_distances(grid_NH[asked], grid_NH)
        block[~request.permitted(asked)] = np.inf
        for row, values in enumerate(block, start=first):
            nearest = smallest(values, m)
            numbers[row, : len(nearest)] = nearest
            distances[row, : len(nearest)] = values[nearest]
    return Neighbors(numbers, distances)


def smallest(values: np.ndarray, m: int) -> np.ndarray:
    """Places of the m smallest finite values, smallest first, ties by place."""
    if not 0 < m:
        return np.zeros(0, dtype=np.int64)
    bound = np.partition(values, m - 1)[m - 1] if m < len(values) else np.inf
    places = np.flatnonzero((values <= bound) & np.isfinite(values))
    return places[np.argsort(values[places], kind="stable")][:m]
