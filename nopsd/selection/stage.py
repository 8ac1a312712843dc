"""Stages `select` and `context`: the training questions and their demonstrations (SPEC §4, §5, §13.1).

In: each rank's neuron sets, every question's text. Out, written by rank 0 once all ranks hold the same content:
    selected.json   {uids (by score), threshold, selector, stats}
    contexts.json   {uid: [{uid, distance}, ...] nearest first}; distance null where the retriever has none
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nopsd.config import ContextConfig, SelectConfig
from nopsd.engine.distributed import Ranks
from nopsd.errors import ArtefactError, ConfigError, DataError
from nopsd.neurons.store import NeuronSets
from nopsd.runs import read_json, sha256_json, write_json
from nopsd.selection.exchange import Counts, Shard, gather_counts, gather_sets
from nopsd.selection.jaccard import mean_pairwise
from nopsd.selection.retrievers import NOBODY, RETRIEVERS, Neighbours, make_table
from nopsd.selection.selectors import Selection, select, uniform

SELECTED, CONTEXTS = "selected.json", "contexts.json"
DIVERSITY_SAMPLE = 200  # questions whose pairwise distances are averaged


@dataclass(frozen=True)
class Neighbour:
    """A demonstration's question and its Jaccard distance (None: chosen without one)."""

    uid: str
    distance: float | None


Contexts = dict[str, list[Neighbour]]


def select_and_retrieve(
    neurons: NeuronSets,
    texts: Mapping[str, str],
    select_config: SelectConfig,
    context_config: ContextConfig,
    ranks: Ranks,
    folder_selected: str | Path,
    folder_contexts: str | Path,
    *,
    exchange: str = "queries_only",
    domains: Mapping[str, str] | None = None,
) -> tuple[Selection, Contexts]:
    """Select questions and find their demonstrations, equal on every rank. Collective.

    `neurons`: this rank's share (may be empty); `texts` and `domains`: of every pool question by uid, on all ranks.
    `exchange`: `queries_only` or `gather_all` (§13.1). Raises ConfigError if the pool is smaller than the
    demonstrations asked for, DataError if a question has no neuron set or a set no question.
    """
    table = make_table(texts, domains)
    ranks.check_equal(sha256_json([table.uids, table.texts.tolist(), table.domains.tolist()]), "the pool's questions")
    _refuse_unknown(neurons.uids, texts)
    shard = Shard(table.numbers(neurons.uids), neurons.ids, _neurons_in_all(neurons))
    counts = gather_counts(shard.numbers, neurons.counts, neurons.lengths, neurons.truncated, ranks)
    _refuse_missing(table.uids, counts)
    names = [domains[uid] for uid in table.uids] if domains else None
    selection = select(table.uids, counts.counts, counts.lengths, counts.truncated, select_config, names)
    selection.stats.update(_pool_stats(counts), mean_pairwise_jaccard=_diversity(table.uids, shard, ranks))

    if context_config.pool == "selected":
        table = make_table(texts, domains, allowed=selection.uids)
    queries = table.numbers(sorted(selection.uids))
    _refuse_small_pool(context_config, int(table.allowed.sum()))
    neighbours = RETRIEVERS[context_config.retriever](table, queries, shard, context_config, ranks, exchange)
    contexts = _contexts(table.uids, queries, neighbours)
    selection.stats["short_contexts"] = sum(len(c) < neighbours.numbers.shape[1] for c in contexts.values())
    _write(selection, select_config.selector, contexts, ranks, Path(folder_selected), Path(folder_contexts))
    return selection, contexts


def read_selected(folder: str | Path) -> Selection:
    """The selection in `folder`; ArtefactError if it is missing or damaged."""
    path = Path(folder) / SELECTED
    stored = read_json(path)
    try:
        return Selection(stored["uids"], stored["threshold"], stored["stats"])
    except (KeyError, TypeError) as error:
        raise ArtefactError(f"{path} is not a selection ({error!r}): run the select stage again") from error


def read_contexts(folder: str | Path) -> Contexts:
    """The contexts in `folder`; ArtefactError if they are missing or damaged."""
    path = Path(folder) / CONTEXTS
    try:
        return {u: [Neighbour(n["uid"], n["distance"]) for n in found] for u, found in read_json(path).items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(f"{path} does not hold contexts ({error!r}): run the context stage again") from error


def _neurons_in_all(neurons: NeuronSets) -> int:
    return sum(neurons.header["widths"])


def _contexts(uids: Sequence[str], queries: np.ndarray, neighbours: Neighbours) -> Contexts:
    return {
        uids[query]: [
            Neighbour(uids[n], None if np.isnan(d) else float(d)) for n, d in zip(numbers, distances) if n != NOBODY
        ]
        for query, numbers, distances in zip(queries, neighbours.numbers, neighbours.distances)
    }


def _pool_stats(counts: Counts) -> dict[str, Any]:
    scored = counts.lengths > 0
    s, length = counts.counts[scored].astype(np.float64), counts.lengths[scored].astype(np.float64)
    quantiles = np.quantile(s, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]).tolist() if len(s) else []
    varied = len(s) > 1 and np.ptp(s) > 0 and np.ptp(length) > 0
    return {
        "count_quantiles": dict(zip(["0", "5", "25", "50", "75", "95", "100"], quantiles)),
        "count_mean": float(s.mean()) if len(s) else None,
        "count_length_correlation": float(np.corrcoef(s, length)[0, 1]) if varied else None,
    }


def _diversity(uids: Sequence[str], shard: Shard, ranks: Ranks) -> float | None:
    """Mean pairwise J of a seeded sample of the pool (SPEC §1)."""
    drawn = sorted(range(len(uids)), key=lambda i: uniform(0, "diversity", uids[i]))[:DIVERSITY_SAMPLE]
    sample = gather_sets(shard, np.isin(shard.numbers, drawn), ranks)
    return mean_pairwise(sample.ids, sample.neurons)


def _write(
    selection: Selection, selector: str, contexts: Contexts, ranks: Ranks, folder_selected: Path, folder_contexts: Path
) -> None:
    selected = {
        "uids": selection.uids, "threshold": selection.threshold, "selector": selector, "stats": selection.stats,
    }  # fmt: skip
    found = {u: [{"uid": n.uid, "distance": n.distance} for n in near] for u, near in contexts.items()}
    ranks.check_equal(sha256_json([selected, found]), "the selection and contexts")
    if ranks.is_main:
        write_json(folder_selected / SELECTED, selected)
        write_json(folder_contexts / CONTEXTS, found)
    ranks.barrier()


def _refuse_unknown(uids: Sequence[str], texts: Mapping[str, str]) -> None:
    unknown = [uid for uid in uids if uid not in texts]
    if unknown:
        raise DataError(f"question {unknown[0]} has a neuron set but is not in the pool: run the neurons stage again")


def _refuse_missing(uids: Sequence[str], counts: Counts) -> None:
    times = np.bincount(counts.numbers, minlength=len(uids))
    for number in np.flatnonzero(times != 1)[:1]:
        state = "has no neuron set" if times[number] == 0 else "has several neuron sets"
        raise DataError(f"question {uids[number]} {state}: run the neurons stage again")


def _refuse_small_pool(config: ContextConfig, pool: int) -> None:
    if config.retriever != "none" and pool - 1 < config.m:
        raise ConfigError(
            f"context.m={config.m} demonstrations from a pool of {pool} questions (context.pool={config.pool}): "
            f"set context.m to {max(pool - 1, 0)} or less, or give more questions"
        )
