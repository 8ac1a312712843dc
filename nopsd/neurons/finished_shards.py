"""Finished shards of a stage's work on disk, so that a restart computes none of them again. One npz file a shard.

The folder's name carries a hash of all that the values depend on: other work's shards are never reused. Shards don't
depend on the number of ranks, so a run may resume with another number.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from nopsd.engine.distributed import Ranks
from nopsd.neurons.sets import SampleSets
from nopsd.neurons.store import pack_ids, read_arrays, write_arrays

PREFIX = "shards-"


class ShardFolder:
    """The finished shards of one piece of work: under `folder`, named by a digest of all that they depend on."""

    def __init__(self, folder: Path, digest: str) -> None:
        self.folder = folder / f"{PREFIX}{digest[:16]}"

    def owners(self, shards: int, ranks: Ranks) -> list[int | None]:
        """For each shard the rank that will read its file, or None if no rank sees one. The same on all ranks."""
        seen = torch.tensor([self.path(b).exists() for b in range(shards)], dtype=torch.uint8)
        holders = torch.stack(ranks.gather(seen)) if shards else torch.zeros(ranks.world, 0)
        # Rotated so that on a shared disk, where all ranks see all files, each reads some.
        return [next((r for r in _rotated(ranks.world, b) if holders[r, b]), None) for b in range(shards)]

    def clear(self) -> None:
        """Remove these files, and what other work left beside them."""
        for folder in self.folder.parent.glob(f"{PREFIX}*"):
            shutil.rmtree(folder, ignore_errors=True)  # another rank may be removing the same

    def path(self, shard: int) -> Path:
        """The shard's file."""
        return self.folder / f"shard-{shard:07d}.npz"


class SetsFolder(ShardFolder):
    """Shards of neuron sets, scores in float32."""

    def write(self, shard: int, samples: Mapping[int, SampleSets]) -> None:
        """Sets by rollout number."""
        ids = [s.ids.numpy() for s in samples.values()]
        scores = np.zeros((len(samples), max([0, *map(len, ids)])), dtype=np.float32)
        for target, sample in zip(scores, samples.values()):
            target[: len(sample.scores)] = sample.scores.numpy()
        write_arrays(
            self.path(shard),
            {"shard": shard},
            {
                "index": np.array(list(samples), dtype=np.int64),
                "count": np.array([s.count for s in samples.values()], dtype=np.float64),
                "ids": pack_ids(ids),
                "scores": scores,
                "size": np.array([len(i) for i in ids], dtype=np.int64),
                "histogram": np.stack([s.histogram.numpy() for s in samples.values()]),
            },
        )

    def read(self, shard: int) -> dict[int, SampleSets]:
        """Sets by rollout number."""
        _, a = read_arrays(self.path(shard))
        return {
            int(index): SampleSets(
                float(a["count"][row]),
                torch.from_numpy(a["ids"][row, : a["size"][row]].astype(np.int64)),
                torch.from_numpy(a["scores"][row, : a["size"][row]]),
                torch.from_numpy(a["histogram"][row]),
            )
            for row, index in enumerate(a["index"])
        }


def _rotated(world: int, start: int) -> list[int]:
    return [(start + i) % world for i in range(world)]
