"""From what a forward pass left to the sets of its responses: cut, reduce to maxima, cut (SPEC §3.3, §13.2-13.3).

In: a `Collector` after the pass, on one rank or on all ranks that shared its work. Out: `SampleSets` of its responses.
The four readings differ in what a first row is (see nopsd.neurons.collect) and in the second cut: `pairs` takes the K
greatest of a response's maxima, `chunk_topk` of each chunk's, `token_topk` none.

How the work was shared decides what ranks must tell each other (`Merger`):
| shard | first cut, of pairs | cut by global id | maxima | counts, sets |
|---|---|---|---|---|
| sample | own | own | own | own |
| layer | own: a layer is on one rank | merged; ids ordered by rank | own | summed, collected |
| neuron | merged | merged | own | summed, collected |
| position | merged; keys ordered by rank | own (by position), or on the merged maxima | all-reduced | own |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nopsd.engine.counting import CountingRanks
from nopsd.neurons.collect import Collector
from nopsd.neurons.entries import NONE, Entries, joined
from nopsd.neurons.merge import gather_entries, keep_top
from nopsd.neurons.sets import SampleSets, SetSizes, sample_sets
from nopsd.neurons.top import top_flat


@dataclass(frozen=True)
class Merger:
    """Cuts and reductions over all ranks that share a pass as `shard` says; collective unless that is `sample`."""

    ranks: CountingRanks
    shard: str = "sample"
    search: str = "bisect"

    def pairs(self, entries: Entries, n: int, rows: int, limit: int) -> Entries:
        """The n greatest (position, neuron) pairs of each row; the lists are cut to n already."""
        if self.shard in ("sample", "layer"):
            return entries
        return self._top("pairs", entries, n, rows, limit, self.shard == "position")

    def neurons(self, entries: Entries, k: int, rows: int, limit: int) -> Entries:
        """The K greatest neurons of each row; the lists are cut to K already."""
        if self.shard in ("sample", "position"):
            return entries
        return self._top("neurons", entries, k, rows, limit, self.shard == "layer")

    def maxima(self, best_GM: torch.Tensor) -> torch.Tensor:
        """4*M bytes a group where ranks see the same neurons (§13.3)."""
        return self.ranks.named("maxima").all_max(best_GM) if self.shard == "position" else best_GM

    def counts(self, counts_S: torch.Tensor) -> torch.Tensor:
        """|U| over all ranks: 4 bytes a response where their neurons are disjoint (§13.2)."""
        return self.ranks.named("counts").all_sum(counts_S.int()) if self._disjoint else counts_S

    def collected(self, entries: Entries, rows: int, limit: int) -> Entries:
        """All ranks' entries: 4 bytes a row and 8 an entry, of the rank that has most."""
        if not self._disjoint:
            return entries
        parts = gather_entries(entries, rows, limit, self.ranks.named("collect"))
        return Entries(*(torch.cat([getattr(p, name) for p in parts]) for name in ("rows", "keys", "scores")))

    @property
    def _disjoint(self) -> bool:
        return self.shard in ("layer", "neuron")

    def _top(self, name: str, entries: Entries, n: int, rows: int, limit: int, ordered: bool) -> Entries:
        return keep_top(entries, n, rows, limit, self.ranks.named(name), self.search, ordered)


def reduce_sets(kept: Collector, sizes: SetSizes, samples: int, merger: Merger, wanted: bool) -> list[SampleSets]:
    """The sets of a batch's `samples` responses, on the CPU; [] on a rank that doesn't want them."""
    cut = merger.neurons if sizes.mode == "token_topk" else merger.pairs
    n = sizes.k if sizes.mode == "token_topk" else sizes.per_layer
    entries = cut(kept.entries(), n, kept.rows, kept.limit)
    groups, ids = kept.neurons(entries)
    in_chunks = sizes.mode == "chunk_topk"
    count = len(kept.samples) if in_chunks else samples
    best_GM = merger.maxima(_maxima(groups if in_chunks else kept.samples[groups], ids, entries.scores, count, sizes))
    if in_chunks:
        chosen = merger.neurons(_greatest(best_GM, NONE, sizes.k), sizes.k, count, sizes.neurons)
        best_GM = _maxima(kept.samples[chosen.rows], chosen.keys, chosen.scores, samples, sizes)
    return _sets(best_GM, sizes, samples, merger, wanted)


def _sets(best_SM: torch.Tensor, sizes: SetSizes, samples: int, merger: Merger, wanted: bool) -> list[SampleSets]:
    floor = 0.0 if sizes.positive_only else NONE
    pairs = sizes.mode == "pairs"
    chosen = _greatest(best_SM, floor, sizes.k if pairs else sizes.neurons)
    if pairs:
        counts = merger.counts((best_SM > NONE).sum(1))
        chosen = merger.neurons(chosen, sizes.k, samples, sizes.neurons)
    chosen = merger.collected(chosen, samples, sizes.neurons)
    if not wanted:
        return []
    chosen = chosen.pick(torch.argsort(chosen.rows * sizes.neurons + chosen.keys))
    lengths = chosen.sizes(samples).tolist()
    counted = counts.tolist() if pairs else lengths  # in the other modes U = N
    by_sample = zip(counted, chosen.keys.split(lengths), chosen.scores.split(lengths))
    return [sample_sets(float(count), ids, scores, sizes) for count, ids, scores in by_sample]


def _maxima(groups: torch.Tensor, ids: torch.Tensor, scores: torch.Tensor, count: int, sizes: SetSizes) -> torch.Tensor:
    """[count, M] float32: each neuron's greatest score in the group, -inf where it has none."""
    best = torch.full((count * sizes.neurons,), NONE, device=scores.device)
    best.scatter_reduce_(0, groups * sizes.neurons + ids, scores, "amax")
    return best.view(count, sizes.neurons)


def _greatest(best_GM: torch.Tensor, floor: float, k: int) -> Entries:
    """The K greatest neurons of each group among those above `floor`, ties to the lower id."""
    lists = []
    for group, best_M in enumerate(best_GM):
        ids = top_flat(best_M.where(best_M > floor, NONE) if floor > NONE else best_M, k)
        lists.append((group, ids, best_M[ids]))
    return joined(lists, best_GM.device)
