"""Forward passes over many rollouts, shared by all ranks, resumable.

In: rollouts (the same on every rank) and what to do with a batch. Out: files of finished shards. Shards are planned
over all rollouts, so a row has the same bits on any number of ranks; a restart computes only those that are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from nopsd.engine.distributed import Ranks
from nopsd.neurons.batches import Batch, assign_shards, plan_shards, schedule
from nopsd.neurons.finished_shards import ShardFolder
from nopsd.rollout.types import Rollout

Result = TypeVar("Result")


@dataclass(frozen=True)
class PassWork(Generic[Result]):
    """What a rank does in a pass: `measure` a batch or `idle`, and `write` a shard's batches once they are complete."""

    measure: Callable[[Batch], Result]
    idle: Callable[[], None]
    write: Callable[[int, Sequence[tuple[Batch, Result]]], None]


def run_shared_passes(
    rollouts: Sequence[Rollout],
    max_tokens: int,
    folder: ShardFolder,
    work: PassWork[Result],
    ranks: Ranks,
    progress: Callable[[int], None] | None = None,
) -> list[int]:
    """Run `work` over all rollouts, shared over the ranks. Collective; every rank measures or idles equally often.

    Args:
        rollouts: Equal on all ranks.
        max_tokens: Padded tokens of a batch, at most.
        folder: Of finished shards; its name depends on all that the values depend on.
        work: What is measured in a batch, how a rank idles, and what is written.
        ranks: All that take part.
        progress: Called with the number of rollouts done over all ranks.

    Returns:
        Numbers of the shards that this rank reads.
    """
    shards = plan_shards(rollouts, max_tokens)
    owners = folder.owners(len(shards), ranks)
    unfinished = [number for number, owner in enumerate(owners) if owner is None]
    assigned = assign_shards(shards, unfinished, ranks.world)
    done = len(rollouts) - sum(len(batch) for number in unfinished for batch in shards[number])
    measured: list[tuple[Batch, Result]] = []
    for step in schedule(shards, assigned, ranks.rank):
        if step.batch:
            measured.append((step.batch, work.measure(step.batch)))
        else:
            work.idle()
        if step.ends_shard:
            work.write(step.shard, measured)
            measured = []
        done += step.rollouts
        if progress is not None:
            progress(done)
    return sorted(assigned[ranks.rank] + [number for number, owner in enumerate(owners) if owner == ranks.rank])
