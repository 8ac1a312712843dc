"""Finished bundles on disk, so that a restart scores none of them again. One npz file a bundle, float32 scores.

The folder's name carries a hash of all that the scores depend on: other work's parts are never taken up.
Parts don't depend on the number of ranks, so a run may go on with another number.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nopsd.engine.distributed import Ranks
from nopsd.neurons.sets import SampleSets
from nopsd.neurons.store import pack_ids, read_arrays, write_arrays


class PartFolder:
    """Where the parts of one piece of work lie: under `folder`, named by a digest of all that they depend on."""

    def __init__(self, folder: Path, digest: str) -> None:
        self.folder = folder / f"parts-{digest[:16]}"

    def owners(self, bundles: int, ranks: Ranks) -> list[int | None]:
        """For each bundle the rank that will read its part, or None if no rank sees one. The same on all ranks."""
        seen = torch.tensor([self.path(b).exists() for b in range(bundles)], dtype=torch.uint8)
        holders = torch.stack(ranks.gather(seen)) if bundles else torch.zeros(ranks.world, 0)
        # Turned so that on a shared disk, where all ranks see all parts, each reads its share.
        return [next((r for r in _turned(ranks.world, b) if holders[r, b]), None) for b in range(bundles)]

    def clear(self) -> None:
        """Remove these parts, and what other work left beside them."""
        for folder in self.folder.parent.glob("parts-*"):
            shutil.rmtree(folder, ignore_errors=True)  # another rank may be removing the same

    def path(self, bundle: int) -> Path:
        return self.folder / f"bundle-{bundle:07d}.npz"


class Parts(PartFolder):
    """Parts that hold neuron sets."""

    def write(self, bundle: int, indices: Sequence[int], samples: Sequence[SampleSets]) -> None:
        """`indices`: the rollouts' numbers; in the same order as `samples`."""
        ids = [s.ids.numpy() for s in samples]
        scores = np.zeros((len(samples), max([0, *map(len, ids)])), dtype=np.float32)
        for target, sample in zip(scores, samples):
            target[: len(sample.scores)] = sample.scores.numpy()
        write_arrays(
            self.path(bundle),
            {"bundle": bundle},
            {
                "index": np.array(indices, dtype=np.int64),
                "count": np.array([s.count for s in samples], dtype=np.float64),
                "ids": pack_ids(ids),
                "scores": scores,
                "size": np.array([len(i) for i in ids], dtype=np.int64),
                "histogram": np.stack([s.histogram.numpy() for s in samples]),
            },
        )

    def read(self, bundle: int) -> dict[int, SampleSets]:
        """Sets by rollout number."""
        _, a = read_arrays(self.path(bundle))
        return {
            int(index): SampleSets(
                float(a["count"][row]),
                torch.from_numpy(a["ids"][row, : a["size"][row]].astype(np.int64)),
                torch.from_numpy(a["scores"][row, : a["size"][row]]),
                torch.from_numpy(a["histogram"][row]),
            )
            for row, index in enumerate(a["index"])
        }


def _turned(world: int, start: int) -> list[int]:
    return [(start + i) % world for i in range(world)]
