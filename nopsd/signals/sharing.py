"""Forward passes over many rollouts, shared by all ranks, resumable (SPEC §13.1).

In: rollouts (the same on every rank) and a function that measures a batch. Out: columns by rollout, in the order of
the rollouts, on every rank. Batches are planned over all rollouts, so a row has the same bits on any number of ranks.
A finished bundle of batches is an npz file, which a restart reads instead of measuring again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nopsd.engine.distributed import Ranks
from nopsd.neurons.batches import Batch, Turn, deal, dealt_turns, plan_bundles
from nopsd.neurons.parts import PartFolder
from nopsd.neurons.store import read_arrays, write_arrays
from nopsd.rollout.types import Rollout

Columns = dict[str, np.ndarray]
Measure = Callable[[Batch], Columns]


@dataclass(frozen=True)
class Shared:
    """This rank's rows, `index` [R_r] naming their rollouts; `take` makes a whole column of all ranks' rows."""

    index: np.ndarray
    columns: Columns
    ranks: Ranks

    def take(self, name: str) -> np.ndarray:
        """A column [R, ...] in the order of the rollouts, removed from `columns`. Collective."""
        own = torch.from_numpy(np.ascontiguousarray(self.columns.pop(name)))
        rows = torch.cat(self.ranks.all_gather_ragged(own)).numpy()
        index = torch.cat(self.ranks.all_gather_ragged(torch.from_numpy(self.index))).numpy()
        return rows[np.argsort(index, kind="stable")]


def share(
    rollouts: Sequence[Rollout],
    max_tokens: int,
    parts: PartFolder,
    measure: Measure,
    idle: Callable[[], None],
    empty: Columns,
    ranks: Ranks,
    progress: Callable[[int], None] | None = None,
) -> Shared:
    """Measure all rollouts. Collective; every rank calls `measure` or `idle` equally often.

    `parts`: of all that the values depend on. `empty`: the columns with no row, for a rank that has none.
    `progress(done)` counts rollouts over all ranks.
    """
    bundles = plan_bundles(rollouts, max_tokens)
    owners = parts.owners(len(bundles), ranks)
    unfinished = [b for b, owner in enumerate(owners) if owner is None]
    hands = deal(bundles, unfinished, ranks.world)
    done = len(rollouts) - sum(len(batch) for b in unfinished for batch in bundles[b])
    _take_turns(dealt_turns(bundles, hands, ranks.rank), parts, measure, idle, progress, done)
    mine = sorted(hands[ranks.rank] + [b for b, owner in enumerate(owners) if owner == ranks.rank])
    finished = [read_arrays(parts.path(bundle))[1] for bundle in mine]
    columns = {
        name: np.concatenate([none, *(part[f"column.{name}"] for part in finished)]) for name, none in empty.items()
    }
    index = np.concatenate([np.zeros(0, dtype=np.int64), *(part["index"] for part in finished)])
    return Shared(index, columns, ranks)


def _take_turns(
    turns: Sequence[Turn],
    parts: PartFolder,
    measure: Measure,
    idle: Callable[[], None],
    progress: Callable[[int], None] | None,
    done: int,
) -> None:
    """As many forward passes on every rank, whatever each has to measure."""
    filling: list[tuple[Batch, Columns]] = []
    for turn in turns:
        if turn.batch:
            filling.append((turn.batch, measure(turn.batch)))
        else:
            idle()
        if turn.keep and turn.ends:
            _write(parts, turn.bundle, filling)
            filling = []
        done += turn.rollouts
        if progress is not None:
            progress(done)


def _write(parts: PartFolder, bundle: int, batches: Sequence[tuple[Batch, Columns]]) -> None:
    index = np.array([i for batch, _ in batches for i in batch], dtype=np.int64)
    names = batches[0][1]
    columns = {f"column.{name}": np.concatenate([rows[name] for _, rows in batches]) for name in names}
    write_arrays(parts.path(bundle), {}, {"index": index, **columns})
