"""The paper's retriever, its controls, and a question's own other response."""

from __future__ import annotations

import numpy as np

from nopsd.selection.neighbors import Neighbors, nearest_sets
from nopsd.selection.retrievers.base import NO_NEIGHBOR, NeighborsWithSamples, Request, retriever
from nopsd.selection.seeded import generator


@retriever()
def neuron_jaccard(request: Request) -> Neighbors:
    """The m questions whose neuron sets overlap most (the paper's Eq. 6)."""
    return nearest_sets(
        request.table,
        request.queries,
        request.sets,
        request.config.m,
        request.config.dedup_text,
        request.ranks,
        exchange=request.exchange,
        block_mib=request.block_mib,
    )


@retriever(name="random", neurons=False)
def random_draw(request: Request) -> Neighbors:
    """The paper's control: m questions of the domain, from seed, query and those permitted alone; no distances."""
    numbers = np.full((len(request.queries), request.config.m), NO_NEIGHBOR, dtype=np.int64)
    for row, query in enumerate(request.queries):
        free = np.flatnonzero(request.permitted(request.queries[row : row + 1])[0])
        draws = generator(request.config.seed, "context", request.table.uids[query])
        drawn = draws.permutation(free)[: request.config.m]
        numbers[row, : len(drawn)] = drawn
    return Neighbors(numbers, np.full(numbers.shape, np.nan))


@retriever(name="none", from_pool=False, neurons=False)
def nothing(request: Request) -> Neighbors:
    """No demonstrations: the teacher sees what the student sees."""
    return Neighbors(np.zeros((len(request.queries), 0), dtype=np.int64), np.zeros((len(request.queries), 0)))


@retriever(needs=("agrees",), from_pool=False, neurons=False)
def same_prompt_rollout(request: Request) -> NeighborsWithSamples:
    """The first stored response of the question itself that agrees with its majority answer.

    A label-free variant of SDPO and CANON. The student's response is sampled anew, so any stored response is another
    one. A question none of whose responses has a readable answer gets no demonstration.
    """
    agrees = request.column("agrees")[request.queries] > 0  # NaN: no such response
    shown = agrees.any(1) & request.table.allowed[request.queries]
    width = min(request.config.m, 1)
    numbers = np.where(shown, request.queries, NO_NEIGHBOR)[:, None][:, :width]
    return NeighborsWithSamples(numbers, np.full(numbers.shape, np.nan), np.argmax(agrees, axis=1)[:, None][:, :width])
