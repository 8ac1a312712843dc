"""One view of all questions from the ranks' shares of the neuron artefact and the signals. Collective.

In: `PoolData`. Out: `Gathered`, equal on every rank but for its sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from nopsd.engine.distributed import Ranks
from nopsd.errors import DataError
from nopsd.files import sha256_json
from nopsd.neurons.store import NeuronSets
from nopsd.selection.exchange import Counts, RankSets, gather_counts
from nopsd.selection.neighbors import Table, make_table
from nopsd.selection.pair_distances import pair_distances
from nopsd.selection.pool import Pool, make_pool


class Columns(Protocol):
    """What is taken of the signals artefact (nopsd.signals.store.Signals)."""

    @property
    def uids(self) -> list[str]: ...

    @property
    def columns(self) -> Mapping[str, np.ndarray]: ...


@dataclass(frozen=True)
class PoolData:
    """What selection goes by: this rank's share of the neuron artefact (may be empty) and, on all ranks alike, every
    pool question's text and domain (None: one domain) by uid, and the signals artefact (None: nothing needs it)."""

    neurons: NeuronSets
    texts: Mapping[str, str]
    domains: Mapping[str, str] | None = None
    signals: Columns | None = None


@dataclass(frozen=True)
class Gathered:
    """All questions: their table, what selectors see of them, this rank's neuron sets, and texts by number."""

    table: Table
    pool: Pool
    sets: RankSets
    texts: list[str]


def gather_pool(data: PoolData, ranks: Ranks, block_mib: int) -> Gathered:
    """All ranks' counts and signals, on every rank. Collective.

    Args:
        data: The pool, this rank's neuron sets, and the signals.
        ranks: All that select.
        block_mib: Memory of a block of set intersections, MiB.

    Raises:
        DataError: A question has no neuron set or no signals, or a neuron set no question.
    """
    neurons, domains = data.neurons, data.domains
    table = make_table(data.texts, domains)
    ranks.check_equal(sha256_json([table.uids, table.texts.tolist(), table.domains.tolist()]), "the pool's questions")
    _refuse_unknown(neurons.uids, data.texts)
    sets = RankSets(table.numbers(neurons.uids), neurons.ids, sum(neurons.header["widths"]))
    counts = gather_counts(sets.numbers, neurons.counts, neurons.lengths, neurons.truncated, ranks)
    _refuse_missing(table.uids, counts)
    columns = {
        "agreement": gather_column(sets.numbers, neurons.agreement, ranks),
        **_signals_of(table.uids, data.signals),
    }
    pool = make_pool(
        table.uids,
        counts.counts,
        counts.lengths,
        counts.truncated,
        [domains[uid] for uid in table.uids] if domains else None,
        columns,
        pair_distances(table.uids, sets, ranks, block_mib),
    )
    return Gathered(table, pool, sets, [data.texts[uid] for uid in table.uids])


def gather_column(numbers: np.ndarray, values: np.ndarray, ranks: Ranks) -> np.ndarray:
    """All ranks' float32 values, by ascending number."""
    own = np.stack([numbers.astype(np.float64), np.asarray(values, dtype=np.float64)], axis=1)
    rows = torch.cat(ranks.all_gather_ragged(torch.from_numpy(own))).numpy()
    result: np.ndarray = rows[np.argsort(rows[:, 0], kind="stable"), 1].astype(np.float32)
    return result


def _signals_of(uids: Sequence[str], signals: Columns | None) -> dict[str, np.ndarray]:
    if signals is None or not signals.columns:
        return {}
    place = {uid: row for row, uid in enumerate(signals.uids)}
    missing = [uid for uid in uids if uid not in place]
    if missing:
        raise DataError(f"question {missing[0]} has no signals: run the signals stage again (--redo signals)")
    rows = np.array([place[uid] for uid in uids], dtype=np.int64)
    return {name: np.asarray(column)[rows] for name, column in signals.columns.items()}


def _refuse_unknown(uids: Sequence[str], texts: Mapping[str, str]) -> None:
    unknown = [uid for uid in uids if uid not in texts]
    if unknown:
        raise DataError(f"question {unknown[0]} has a neuron set but is not in the pool: run the neurons stage again")


def _refuse_missing(uids: Sequence[str], counts: Counts) -> None:
    times = np.bincount(counts.numbers, minlength=len(uids))
    for number in np.flatnonzero(times != 1)[:1]:
        state = "has no neuron set" if times[number] == 0 else "has several neuron sets"
        raise DataError(f"question {uids[number]} {state}: run the neurons stage again")
