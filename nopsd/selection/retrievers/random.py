"""`random`: the paper's control, m questions of the domain, uniform and seeded (SPEC §5)."""

from __future__ import annotations

import numpy as np

from nopsd.selection.retrievers.base import NOBODY, Neighbours, Request, retriever
from nopsd.selection.seeded import generator


@retriever(name="random", neurons=False)
def random_draw(request: Request) -> Neighbours:
    """From seed, query and those permitted alone; without distances."""
    numbers = np.full((len(request.queries), request.config.m), NOBODY, dtype=np.int64)
    for row, query in enumerate(request.queries):
        free = np.flatnonzero(request.permitted(request.queries[row : row + 1])[0])
        draws = generator(request.config.seed, "context", request.table.uids[query])
        drawn = draws.permutation(free)[: request.config.m]
        numbers[row, : len(drawn)] = drawn
    return Neighbours(numbers, np.full(numbers.shape, np.nan))
