"""The training questions and their demonstrations (the paper's Algorithm 1 and Eq. 6).

In: each rank's neuron sets, the signals that the chosen selector, retriever and filter need, every question's text.
Out: the same selection and contexts on every rank; nopsd.selection.artefacts writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nopsd.config import ContextConfig, SelectConfig
from nopsd.engine.distributed import Ranks
from nopsd.errors import ConfigError, DataError, UserError
from nopsd.selection.artefacts import Contexts, Neighbor, write_selection
from nopsd.selection.exchange import RankSets, gather_sets
from nopsd.selection.filters import eligible
from nopsd.selection.gathering import Gathered, PoolData, gather_pool
from nopsd.selection.jaccard import mean_pairwise
from nopsd.selection.neighbors import Table
from nopsd.selection.retrievers import (
    NO_NEIGHBOR,
    Neighbors,
    NeighborsWithSamples,
    Request,
    Retriever,
    find_retriever,
)
from nopsd.selection.seeded import hash_uniform
from nopsd.selection.selectors import Selection, select
from nopsd.selection.statistics import count_statistics, score_statistics

DIVERSITY_SAMPLE = 200  # questions whose pairwise distances are averaged


@dataclass(frozen=True)
class Sharing:
    """How ranks work together: dist.context_exchange and dist.block_mib. No result depends on it."""

    ranks: Ranks
    exchange: str = "auto"
    block_mib: int = 512


def select_pool(
    data: PoolData,
    select_config: SelectConfig,
    context_config: ContextConfig,
    sharing: Sharing,
    folder: str | Path,
) -> tuple[Selection, Contexts]:
    """Select questions and find their demonstrations, equal on every rank; rank 0 writes them. Collective.

    Args:
        data: The pool, this rank's neuron sets, and the signals.
        select_config: Which questions.
        context_config: Which demonstrations.
        sharing: The ranks, and what they exchange.
        folder: The select stage's.

    Returns:
        The selected questions with all scores, and each one's demonstrations.

    Raises:
        ConfigError: The pool is smaller than the demonstrations asked for.
        DataError: A question has no neuron set or a set no question, or a column that is needed is missing or not a
            number.

    Source:
        The paper's Sections 4.2 and 4.3, Algorithm 1 and Eq. 6.
    """
    gathered = gather_pool(data, sharing.ranks, sharing.block_mib)
    selection = select(gathered.pool, select_config)
    selection.stats.update(
        count_statistics(gathered.pool),
        scores=score_statistics(gathered.pool, selection.scores),
        mean_pairwise_jaccard=_diversity(gathered.table.uids, gathered.sets, sharing),
    )
    contexts, width = _retrieve(gathered, selection.uids, selection, context_config, sharing)
    selection.stats["short_contexts"] = sum(len(near) < width for near in contexts.values())
    selection.stats["empty_contexts"] = sum(not near for near in contexts.values())
    write_selection(selection, select_config.selector, contexts, gathered.table.uids, sharing.ranks, Path(folder))
    return selection, contexts


def find_contexts(uids: Sequence[str], data: PoolData, config: ContextConfig, sharing: Sharing) -> Contexts:
    """Demonstrations of any pool questions, without a selection and without files. Collective.

    Args:
        uids: The questions that get demonstrations.
        data: The pool, this rank's neuron sets, and the signals.
        config: Which demonstrations.
        sharing: The ranks, and what they exchange.

    Raises:
        ConfigError, DataError: As `select_pool`.
    """
    if config.pool == "selected":
        raise ConfigError(
            "context.pool=selected: demonstrations are wanted before there is a selection (select.selector="
            "belief_shift compares answers with and without them): set context.pool=all"
        )
    gathered = gather_pool(data, sharing.ranks, sharing.block_mib)
    return _retrieve(gathered, uids, None, config, sharing)[0]


def _retrieve(
    gathered: Gathered, uids: Sequence[str], selection: Selection | None, config: ContextConfig, sharing: Sharing
) -> tuple[Contexts, int]:
    """Contexts, and how many demonstrations one has where nothing is lacking."""
    chosen = find_retriever(config)
    shown = eligible(config.filter, gathered.pool)
    allowed = gathered.table.allowed & shown.allowed
    if config.pool == "selected" and selection is not None:
        allowed &= np.isin(np.arange(len(allowed)), gathered.table.numbers(selection.uids))
    table = replace(gathered.table, allowed=allowed)
    queries = table.numbers(sorted(uids))
    if chosen.from_pool:
        _refuse_small_pool(config, table, queries, gathered.pool.domains)
    request = Request(
        table,
        queries,
        config,
        gathered.sets,
        gathered.pool.columns,
        sharing.ranks,
        sharing.exchange,
        sharing.block_mib,
        gathered.texts,
    )
    found = chosen.find(request)
    _check_found(found, request, chosen)
    samples = found.samples if isinstance(found, NeighborsWithSamples) else shown.samples[found.numbers]
    return _contexts(table.uids, queries, found, samples), found.numbers.shape[1]


def _contexts(uids: Sequence[str], queries: np.ndarray, found: Neighbors, samples: np.ndarray) -> Contexts:
    return {
        uids[query]: [
            Neighbor(uids[n], float(d) if np.isfinite(d) else None, int(s))
            for n, d, s in zip(numbers, distances, shown)
            if n != NO_NEIGHBOR
        ]
        for query, numbers, distances, shown in zip(queries, found.numbers, found.distances, samples)
    }


def _check_found(found: Neighbors, request: Request, chosen: Retriever) -> None:
    """A user's retriever may hand back anything; what later stages could not use is refused here."""
    if not isinstance(found, Neighbors):
        raise UserError(
            f"context.retriever={request.config.retriever} returned a {type(found).__name__}: return Neighbors("
            "numbers, distances)"
        )
    shapes = {np.shape(found.numbers), np.shape(found.distances)}
    if isinstance(found, NeighborsWithSamples):
        shapes.add(np.shape(found.samples))
    numbers, shape = np.asarray(found.numbers), np.shape(found.numbers)
    if len(shapes) != 1 or len(shape) != 2 or shape[0] != len(request.queries):
        raise UserError(f"context.retriever={request.config.retriever} must return [{len(request.queries)}, m] arrays")
    if numbers.size and not (NO_NEIGHBOR <= numbers.min() and numbers.max() < len(request.table.uids)):
        raise UserError(f"context.retriever={request.config.retriever} returned numbers that are no questions")
    if chosen.from_pool and (numbers == request.queries[:, None]).any():
        raise DataError(f"context.retriever={request.config.retriever} shows a question its own response")


def _diversity(uids: Sequence[str], sets: RankSets, sharing: Sharing) -> float | None:
    """Mean pairwise J of a seeded sample of the pool; None where there are no neuron sets."""
    if not sets.neurons:
        return None
    drawn = sorted(range(len(uids)), key=lambda i: hash_uniform(0, "diversity", uids[i]))[:DIVERSITY_SAMPLE]
    sample = gather_sets(sets, np.isin(sets.numbers, drawn), sharing.ranks)
    return mean_pairwise(sample.ids, sample.neurons, sharing.block_mib)


def _refuse_small_pool(config: ContextConfig, table: Table, queries: np.ndarray, domains: Sequence[str]) -> None:
    """Every domain that is asked about must have m demonstrations besides the question itself."""
    several = len(set(domains)) > 1
    for number in np.unique(table.domains[queries]):
        left = int((table.allowed & (table.domains == number)).sum())
        if left - 1 < config.m:
            where = f" of domain {domains[int(np.argmax(table.domains == number))]}" if several else ""
            raise ConfigError(
                f"context.m={config.m} demonstrations from a pool of {left} questions{where} "
                f"(context.pool={config.pool}, context.filter={config.filter}): set context.m to {max(left - 1, 0)} "
                "or less, or give more questions"
            )
