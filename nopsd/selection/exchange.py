"""What ranks tell each other so that each sees the same whole (SPEC §13.1): counts, and neuron sets asked for.

In: this rank's shard; questions are named by number, their place in the ascending list of uids, which all ranks
hold. Out: the same arrays on every rank, in ascending order of number, whatever the sharding. Collective.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from nopsd.engine.distributed import Ranks


@dataclass(frozen=True)
class Shard:
    """Neuron sets at hand: ids [n, K] (padded -1) of the questions with these numbers, of `neurons` = M in all."""

    numbers: np.ndarray
    ids: np.ndarray
    neurons: int


@dataclass(frozen=True)
class Counts:
    """Columns of all questions that any rank holds, by ascending number."""

    numbers: np.ndarray  # [N] int64
    counts: np.ndarray  # [N] float32
    lengths: np.ndarray  # [N] int32
    truncated: np.ndarray  # [N] bool


def gather_counts(
    numbers: np.ndarray, counts: np.ndarray, lengths: np.ndarray, truncated: np.ndarray, ranks: Ranks
) -> Counts:
    """All ranks' counts. Integers and float32 pass through float64 unchanged."""
    own = np.stack([np.asarray(column, dtype=np.float64) for column in (numbers, counts, lengths, truncated)], 1)
    rows = torch.cat(ranks.all_gather_ragged(torch.from_numpy(own))).numpy()
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    return Counts(
        rows[:, 0].astype(np.int64), rows[:, 1].astype(np.float32), rows[:, 2].astype(np.int32), rows[:, 3].astype(bool)
    )


def gather_sets(shard: Shard, wanted: np.ndarray, ranks: Ranks) -> Shard:
    """The sets that ranks hold and `wanted` [n] marks, from all ranks: 4 K bytes a set."""
    width = int(ranks.all_max(torch.tensor([shard.ids.shape[1]])))
    own = np.full((int(wanted.sum()), width), -1, dtype=np.int32)
    own[:, : shard.ids.shape[1]] = shard.ids[wanted]
    ids = torch.cat(ranks.all_gather_ragged(torch.from_numpy(own))).numpy()
    numbers = torch.cat(ranks.all_gather_ragged(torch.from_numpy(shard.numbers[wanted]))).numpy()
    order = np.argsort(numbers, kind="stable")
    return Shard(numbers[order], ids[order], shard.neurons)


def take(shard: Shard, numbers: np.ndarray) -> Shard:
    """The sets of these questions, in this order; the shard must be in ascending order and hold them."""
    places = np.searchsorted(shard.numbers, numbers)
    return Shard(numbers, shard.ids[places], shard.neurons)
