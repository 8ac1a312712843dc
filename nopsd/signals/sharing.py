"""Forward passes over many rollouts, shared by all ranks, resumable (SPEC §13.1).

In: rollouts (the same on every rank) and a function that measures a batch. Out: columns by rollout, in the order of
the rollouts, on every rank. Batches are planned over all rollouts, so a row has the same bits on any number of ranks.
A finished bundle of batches is an npz file, which a restart reads instead of measuring again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nopsd.engine.distributed import Ranks
from nopsd.neurons.batches import Batch, Bundle, deal, plan_bundles
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
    folder: Path,
    measure: Measure,
    idle: Callable[[], None],
    empty: Columns,
    ranks: Ranks,
    progress: Callable[[int], None] | None = None,
) -> Shared:
    """Measure all rollouts. Collective; every rank calls `measure` or `idle` equally often.

    `folder`: of the parts, named after all that the values depend on. `empty`: the columns with no row, for a rank
    that has none. `progress(done)` counts rollouts over all ranks.
    """
    bundles = plan_bundles(rollouts, max_tokens)
    owners = _owners(folder, len(bundles), ranks)
    hands = deal(bundles, [b for b, owner in enumerate(owners) if owner is None], ranks.world)
    _measure_hands(bundles, hands, folder, measure, idle, ranks, progress)
    mine = sorted(hands[ranks.rank] + [b for b, owner in enumerate(owners) if owner == ranks.rank])
    parts = [read_arrays(_path(folder, bundle))[1] for bundle in mine]
    columns = {
        name: np.concatenate([none, *(part[f"column.{name}"] for part in parts)]) for name, none in empty.items()
    }
    index = np.concatenate([np.zeros(0, dtype=np.int64), *(part["index"] for part in parts)])
    return Shared(index, columns, ranks)


def clear(folder: Path) -> None:
    """Remove a parts folder and what other work left beside it."""
    for other in folder.parent.glob("parts-*"):
        shutil.rmtree(other, ignore_errors=True)  # another rank may be removing the same


def parts_folder(folder: Path, digest: str) -> Path:
    return folder / f"parts-{digest[:16]}"


def _measure_hands(
    bundles: Sequence[Bundle],
    hands: Sequence[Sequence[int]],
    folder: Path,
    measure: Measure,
    idle: Callable[[], None],
    ranks: Ranks,
    progress: Callable[[int], None] | None,
) -> None:
    """This rank's bundles, and as many forward passes as the busiest rank."""
    steps = [[(number, batch) for number in hand for batch in bundles[number]] for hand in hands]
    left = {number for hand in hands for number in hand}
    done = sum(len(batch) for n, bundle in enumerate(bundles) if n not in left for batch in bundle)
    own, filling = steps[ranks.rank], list[tuple[Batch, Columns]]()
    for step in range(max(map(len, steps))):
        if step < len(own):
            number, batch = own[step]
            filling.append((batch, measure(batch)))
            if step + 1 == len(own) or own[step + 1][0] != number:
                _write(_path(folder, number), filling)
                filling = []
        else:
            idle()
        done += sum(len(hand[step][1]) for hand in steps if step < len(hand))
        if progress is not None:
            progress(done)


def _write(path: Path, batches: Sequence[tuple[Batch, Columns]]) -> None:
    index = np.array([i for batch, _ in batches for i in batch], dtype=np.int64)
    names = batches[0][1]
    columns = {f"column.{name}": np.concatenate([rows[name] for _, rows in batches]) for name in names}
    write_arrays(path, {}, {"index": index, **columns})


def _owners(folder: Path, bundles: int, ranks: Ranks) -> list[int | None]:
    """For each bundle the rank that reads its part, None if no rank sees one. The same on all ranks."""
    seen = torch.tensor([_path(folder, b).exists() for b in range(bundles)], dtype=torch.uint8)
    holders = torch.stack(ranks.gather(seen)) if bundles else torch.zeros(ranks.world, 0)
    # Turned, so that of a disk that all ranks see each reads its share.
    turned = [[(b + i) % ranks.world for i in range(ranks.world)] for b in range(bundles)]
    return [next((r for r in turned[b] if holders[r, b]), None) for b in range(bundles)]


def _path(folder: Path, bundle: int) -> Path:
    return folder / f"bundle-{bundle:07d}.npz"
