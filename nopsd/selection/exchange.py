"""What ranks exchange so that each sees the same: counts, and neuron sets asked for.

In: this rank's sets; questions are named by number, their place in the ascending list of uids, which all ranks
hold. Out: the same arrays on every rank, in ascending order of number, whatever the sharding. Collective.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from nopsd.engine.distributed import Ranks
from nopsd.selection.sets import set_sizes

GATHER_ALL_LIMIT = 10**9  # bytes of all sets on every rank


@dataclass(frozen=True)
class RankSets:
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


def gather_sets(sets: RankSets, wanted: np.ndarray, ranks: Ranks) -> RankSets:
    """The sets that ranks hold and `wanted` [n] marks, from all ranks: 4 K bytes a set."""
    directory = list_sets(sets, ranks)
    everywhere = np.sort(torch.cat(ranks.all_gather_ragged(torch.from_numpy(sets.numbers[wanted]))).numpy())
    whole = fetch_sets(sets, everywhere, directory, ranks)
    return take(whole, everywhere)


def take(sets: RankSets, numbers: np.ndarray) -> RankSets:
    """The sets of these questions, in this order; the sets must hold them."""
    return RankSets(numbers, sets.ids[places(sets.numbers, numbers)], sets.neurons)


def places(held: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Where in `held` (in any order) these numbers stand; all must be there."""
    order = np.argsort(held, kind="stable")
    return order[np.searchsorted(held, numbers, sorter=order)]


@dataclass(frozen=True)
class Directory:
    """Which sets each rank holds, in its order, and how many members they have; known to every rank."""

    numbers: list[np.ndarray]
    sizes: list[np.ndarray]
    width: int  # K of the widest sets

    def sizes_by_number(self, questions: int) -> np.ndarray:
        """Members of every question's set, int64 [questions]; 0 where no rank holds one."""
        sizes = np.zeros(questions, dtype=np.int64)
        sizes[np.concatenate(self.numbers)] = np.concatenate(self.sizes)
        return sizes


def list_sets(sets: RankSets, ranks: Ranks) -> Directory:
    """Tell all ranks which sets this one holds: 8 bytes a set (numbers and sizes as int32), and 16 a rank."""
    own = np.stack([sets.numbers, set_sizes(sets.ids)], axis=1).astype(np.int32)
    shapes = torch.stack(ranks.gather(torch.tensor(sets.ids.shape, dtype=torch.int64))).tolist()
    parts = ranks.gather(torch.from_numpy(_filled_up(own, max(count for count, _ in shapes), own.shape[1])))
    rows = [part.numpy()[:count].astype(np.int64) for part, (count, _) in zip(parts, shapes)]
    return Directory([part[:, 0] for part in rows], [part[:, 1] for part in rows], max(width for _, width in shapes))


def fetch_sets(sets: RankSets, numbers: np.ndarray, directory: Directory, ranks: Ranks) -> RankSets:
    """Sets of questions from the ranks that hold them, on every rank: 4 K bytes a set. Collective.

    A rank sends as many rows as the one with the most. A group of one gets its own sets back.

    Args:
        sets: Those that this rank holds.
        numbers: The questions that are wanted, equal on all ranks.
        directory: Which rank holds which set (`list_sets`).
        ranks: All that take part.

    Returns:
        The sets, in any order.
    """
    if ranks.world == 1:
        return sets
    wanted = [np.isin(held, numbers) for held in directory.numbers]
    rows = max(int(asked.sum()) for asked in wanted)
    own = _filled_up(sets.ids[wanted[ranks.rank]], rows, directory.width)
    parts = ranks.gather(torch.from_numpy(own))
    del own
    ids = torch.cat([part[: int(asked.sum())] for part, asked in zip(parts, wanted)]).numpy()
    held = np.concatenate([held[asked] for held, asked in zip(directory.numbers, wanted)])
    return RankSets(held, ids, sets.neurons)


@dataclass(frozen=True)
class ExchangePlan:
    """The exchange taken, and what a rank sends by either (bytes, beside `list_sets`)."""

    kind: str
    queries_only: int
    gather_all: int


def plan_exchange(exchange: str, directory: Directory, queries: np.ndarray, m: int) -> ExchangePlan:
    """What the ranks send each other to find the nearest sets.

        queries_only: 4 K q + 8 m S bytes, q = the most queries that one of R ranks holds (evenly shared: S / R)
        gather_all:   4 K n + 8 m ceil(S / R) bytes, n = the most sets that a rank holds: the queries are shared out

    Args:
        exchange: `dist.context_exchange`. `auto`: the one that sends less, but gather_all only where all sets are at
            most GATHER_ALL_LIMIT bytes.
        directory: Which rank holds which set.
        queries: Numbers of the questions that get demonstrations, S of them.
        m: Demonstrations of a question.
    """
    held = max(len(numbers) for numbers in directory.numbers)
    asked = max(int(np.isin(numbers, queries).sum()) for numbers in directory.numbers)
    total = 4 * directory.width * sum(len(numbers) for numbers in directory.numbers)
    queries_only = 4 * directory.width * asked + 8 * m * len(queries)
    gather_all = 4 * directory.width * held + 8 * m * -(-len(queries) // len(directory.numbers))
    if exchange == "auto":
        exchange = "gather_all" if gather_all < queries_only and total <= GATHER_ALL_LIMIT else "queries_only"
    return ExchangePlan(exchange, queries_only, gather_all)


def _filled_up(rows: np.ndarray, count: int, width: int) -> np.ndarray:
    """int32 [count, width], -1 beyond the rows."""
    whole = np.full((count, width), -1, dtype=np.int32)
    whole[: rows.shape[0], : rows.shape[1]] = rows
    return whole
