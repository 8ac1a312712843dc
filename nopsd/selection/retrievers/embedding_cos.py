"""Retrievers by cosine: `embedding_cos` (mean last hidden state), `trajectory_cos` (the answer token's way through all
layers) and `mmr` (embeddings, and unlike each other). 1 − cos is the distance.

Out: neighbors by (distance, uid), the same on every machine, for every number of ranks and every size of block
(nopsd.selection.cosine).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from nopsd.selection.cosine import cosine_distances, on_grid
from nopsd.selection.retrievers.base import NO_NEIGHBOR, Neighbors, Request, retriever

TEMPORARIES = 6  # arrays of the block's size that are alive at once, in float64

# (vectors on the grid [N, H], distances of all to the query [N], inf: not permitted) -> places, nearest or best first
Choose = Callable[[np.ndarray, np.ndarray], np.ndarray]


@retriever(needs=("embedding",), neurons=False)
def embedding_cos(request: Request) -> Neighbors:
    """The m questions of nearest mean last hidden state."""
    return _by_cosine(request, "embedding", lambda _, distances: smallest(distances, request.config.m))


@retriever(needs=("trajectory",), neurons=False)
def trajectory_cos(request: Request) -> Neighbors:
    """The m questions whose answers' last tokens took the most similar way through the layers (INFLOW, 2609.36695)."""
    return _by_cosine(request, "trajectory", lambda _, distances: smallest(distances, request.config.m))


@retriever(needs=("embedding",), neurons=False)
def mmr(request: Request) -> Neighbors:
    """Maximal marginal relevance (Carbonell and Goldstein 1998): near the question, and unlike each other."""
    m, weight = request.config.m, request.config.mmr_lambda
    return _by_cosine(request, "embedding", lambda grid, distances: most_relevant(grid, distances, m, weight))


def most_relevant(grid_NH: np.ndarray, distances: np.ndarray, m: int, weight: float) -> np.ndarray:
    """Places picked one after another by weight · cos to the query − (1 − weight) · the largest cos to those picked.

    Args:
        grid_NH: Vectors on the grid.
        distances: 1 − cos of each to the query, [N]; inf: may not be shown.
        m: How many, at most.
        weight: `context.mmr_lambda`; 1: nearest first.

    Returns:
        Places in the order of picking; of equals the first.
    """
    free = np.isfinite(distances)
    relevance = weight * (1 - np.where(free, distances, 0.0))
    nearest = np.zeros(len(distances))  # to those picked; the first pick goes by relevance alone
    picked: list[int] = []
    while len(picked) < min(m, int(free.sum())):
        value = np.where(free, relevance - (1 - weight) * nearest, -np.inf)
        value[picked] = -np.inf
        picked.append(int(np.argmax(value)))
        near = 1 - cosine_distances(grid_NH[picked[-1:]], grid_NH)[0]
        nearest = near if len(picked) == 1 else np.maximum(nearest, near)
    return np.array(picked, dtype=np.int64)


def smallest(values: np.ndarray, m: int) -> np.ndarray:
    """Places of the m smallest finite values, smallest first, ties by place."""
    if not 0 < m:
        return np.zeros(0, dtype=np.int64)
    bound = np.partition(values, m - 1)[m - 1] if m < len(values) else np.inf
    places = np.flatnonzero((values <= bound) & np.isfinite(values))
    return places[np.argsort(values[places], kind="stable")][:m]


def _by_cosine(request: Request, column: str, choose: Choose) -> Neighbors:
    """Each rank finds the neighbors of a slice of the queries. Collective."""
    grid_NH = on_grid(np.asarray(request.column(column)), request.table.uids, column)
    edges = np.linspace(0, len(request.queries), request.ranks.world + 1).astype(np.int64)
    own = request.queries[edges[request.ranks.rank] : edges[request.ranks.rank + 1]]
    found = _nearest(request, grid_NH, own, choose)
    numbers, distances = (
        torch.cat(request.ranks.all_gather_ragged(torch.from_numpy(part))).numpy()
        for part in (found.numbers, found.distances)
    )
    return Neighbors(numbers, distances)


def _nearest(request: Request, grid_NH: np.ndarray, queries: np.ndarray, choose: Choose) -> Neighbors:
    m = request.config.m
    numbers = np.full((len(queries), m), NO_NEIGHBOR, dtype=np.int64)
    distances = np.full(numbers.shape, np.inf)
    rows = max(1, request.block_mib * (1 << 20) // (8 * TEMPORARIES * max(len(grid_NH), 1)))
    for first in range(0, len(queries), rows):
        asked = queries[first : first + rows]
        block = cosine_distances(grid_NH[asked], grid_NH)
        block[~request.permitted(asked)] = np.inf
        for row, values in enumerate(block, start=first):
            nearest = choose(grid_NH, values)
            numbers[row, : len(nearest)] = nearest
            distances[row, : len(nearest)] = values[nearest]
    return Neighbors(numbers, distances)
