"""Jaccard distances of all pairs of a domain's neuron sets, for selectors that cluster (dual_neufs).

In: each rank's sets of the sets. Out: the same float32 matrix on every rank: each rank makes a slice of its rows, from
exact integers, and all are gathered. Collective. What is gathered is held within dist.block_mib, known before it is;
what compares the sets takes as much again while it does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from nopsd.engine.distributed import Ranks
from nopsd.errors import ConfigError
from nopsd.selection.exchange import RankSets, gather_sets, take
from nopsd.selection.jaccard import distance_blocks
from nopsd.selection.pool import Distances

MIB = 1 << 20


def pair_distances(uids: Sequence[str], sets: RankSets, ranks: Ranks, block_mib: int) -> Distances:
    """A callable for `Pool.pairs`. `uids`: of all questions, by number."""

    def distances(numbers: np.ndarray, clusters: int) -> np.ndarray:
        width = int(ranks.all_max(torch.tensor([sets.ids.shape[1]])))
        refuse_too_many(len(numbers), clusters, width, block_mib)
        whole = take(gather_sets(sets, np.isin(sets.numbers, numbers), ranks), numbers)
        edges = np.linspace(0, len(numbers), ranks.world + 1).astype(np.int64)
        own = slice(edges[ranks.rank], edges[ranks.rank + 1])
        rows = np.zeros((own.stop - own.start, len(numbers)), dtype=np.float32)
        for first, block in distance_blocks(whole.ids[own], whole.ids, whole.neurons, block_mib):
            rows[first : first + len(block)] = block
        matrix = torch.cat(ranks.all_gather_ragged(torch.from_numpy(rows))).numpy()
        np.fill_diagonal(matrix, 0)  # J of an empty set and itself is 1
        result: np.ndarray = matrix
        return result

    return distances


def needed_mib(questions: int, clusters: int, width: int) -> float:
    """The matrix, the sets it comes from, and k-medoids' distances to all medoids; float32 and int32."""
    return 4 * questions * (questions + width + clusters) / MIB


def refuse_too_many(questions: int, clusters: int, width: int, block_mib: int) -> None:
    """ConfigError, saying what would fit, unless the matrix fits dist.block_mib."""
    needed = needed_mib(questions, clusters, width)
    if needed > block_mib:
        share = clusters / max(questions, 1)  # 4 N (N + K + share N) <= room
        room = block_mib * MIB / 4
        most = int((np.sqrt(width**2 + 4 * (1 + share) * room) - width) / (2 * (1 + share)))
        raise ConfigError(
            f"select.selector: distances of all pairs of {questions} questions take {needed:.0f} MiB on each rank, and "
            f"dist.block_mib={block_mib}: set dist.block_mib={int(needed) + 1} if the host has it, or "
            f"data.pool_limit={most} or less, or take another selector"
        )
