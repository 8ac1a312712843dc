"""Columns of many rollouts, measured by forward passes that all ranks share, resumable.

In: rollouts (the same on every rank) and a function that measures a batch. Out: columns by rollout, in the order of
the rollouts, on every rank, with the same bits on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nopsd.engine.distributed import Ranks
from nopsd.neurons.batches import Batch
from nopsd.neurons.finished_shards import ShardFolder
from nopsd.neurons.shared_passes import PassWork, run_shared_passes
from nopsd.neurons.store import read_arrays, write_arrays
from nopsd.rollout.types import Rollout

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Measuring:
    """`measure` a batch, `idle` where only other ranks have one; `empty`: the columns with no row."""

    measure: Callable[[Batch], Columns]
    idle: Callable[[], None]
    empty: Columns


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
        result: np.ndarray = rows[np.argsort(index, kind="stable")]
        return result


def share(
    rollouts: Sequence[Rollout],
    max_tokens: int,
    folder: ShardFolder,
    measuring: Measuring,
    ranks: Ranks,
    progress: Callable[[int], None] | None = None,
) -> Shared:
    """Measure all rollouts. Collective; every rank measures or idles equally often.

    `folder`: named by all that the values depend on. `progress(done)` counts rollouts over all ranks.
    """

    def write(shard: int, batches: Sequence[tuple[Batch, Columns]]) -> None:
        index = np.array([i for batch, _ in batches for i in batch], dtype=np.int64)
        columns = {f"column.{name}": np.concatenate([rows[name] for _, rows in batches]) for name in measuring.empty}
        write_arrays(folder.path(shard), {}, {"index": index, **columns})

    work = PassWork(measuring.measure, measuring.idle, write)
    mine = run_shared_passes(rollouts, max_tokens, folder, work, ranks, progress)
    finished = [read_arrays(folder.path(shard))[1] for shard in mine]
    columns = {
        name: np.concatenate([none, *(shard[f"column.{name}"] for shard in finished)])
        for name, none in measuring.empty.items()
    }
    index = np.concatenate([np.zeros(0, dtype=np.int64), *(shard["index"] for shard in finished)])
    return Shared(index, columns, ranks)
