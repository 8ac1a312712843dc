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


@retriever(neurons=False)
def fixed(request: Request) -> Neighbors:
    """The same m questions for all of a domain, drawn once: one context to store. No distances.

    A question that is among them, or reads like one of them, is shown the draw's next ones in their place.
    """
    numbers = np.full((len(request.queries), request.config.m), NO_NEIGHBOR, dtype=np.int64)
    draws: dict[int, np.ndarray] = {}
    for row, query in enumerate(request.queries):
        domain = int(request.table.domains[query])
        if domain not in draws:
            shared = np.flatnonzero(request.table.allowed & (request.table.domains == domain))
            named = request.table.uids[int(np.flatnonzero(request.table.domains == domain)[0])]
            draws[domain] = generator(request.config.seed, "fixed", named).permutation(shared)
        free = request.permitted(request.queries[row : row + 1])[0]
        drawn = draws[domain][free[draws[domain]]][: request.config.m]
        numbers[row, : len(drawn)] = drawn
    return Neighbors(numbers, np.full(numbers.shape, np.nan))


@retriever(name="none", from_pool=False, neurons=False)
def nothing(request: Request) -> Neighbors:
    """No demonstrations: the teacher sees what the student sees."""
    return Neighbors(np.zeros((len(request.queries), 0), dtype=np.int64), np.zeros((len(request.queries), 0)))


@retriever(needs=("agrees",), from_pool=False, neurons=False)
def same_prompt_rollout(request: Request) -> NeighborsWithSamples:
    """A stored response of the question itself that agrees with its majority answer: which one, `context.pick` says.

    A label-free variant of SDPO and CANON. The student's response is sampled anew, so any stored response is another
    one. A question none of whose responses has a readable answer gets no demonstration.
    """
    agrees = request.column("agrees")[request.queries] > 0  # NaN: no such response
    shown = agrees.any(1) & request.table.allowed[request.queries]
    width = min(request.config.m, 1)
    numbers = np.where(shown, request.queries, NO_NEIGHBOR)[:, None][:, :width]
    samples = _picked(request, agrees)[:, None][:, :width]
    return NeighborsWithSamples(numbers, np.full(numbers.shape, np.nan), samples)


def _picked(request: Request, agrees: np.ndarray) -> np.ndarray:
    """The response [Q] that context.pick takes of those that agree [Q, n]; of equals the first."""
    pick = request.config.pick
    if pick == "first":
        first: np.ndarray = np.argmax(agrees, axis=1)
        return first
    column, sign = {"likeliest": ("mean_logp", 1), "shortest": ("response_length", -1)}.get(
        pick, ("response_length", 1)
    )
    values = sign * request.column(column)[request.queries].astype(np.float64)
    result: np.ndarray = np.argmax(np.where(agrees & np.isfinite(values), values, -np.inf), axis=1)
    return result
