"""From what a forward pass left to the sets of its responses: top-n, maxima, top-K (the paper's Eqs. 4 and 5).

In: a `Collector` after the pass. Out: `SampleSets` of its responses.
The four readings differ in what a first row is (see nopsd.neurons.collect) and in the second cut: `pairs` takes the K
greatest of a response's maxima, `chunk_topk` of each chunk's, `token_topk` none.
"""

from __future__ import annotations

import torch

from nopsd.neurons.collect import Collector
from nopsd.neurons.entries import NONE, Entries, joined
from nopsd.neurons.sets import SampleSets, SetSizes, sample_sets
from nopsd.neurons.top import top_flat


def reduce_sets(kept: Collector, sizes: SetSizes, samples: int) -> list[SampleSets]:
    """The sets of a batch's `samples` responses, on the CPU."""
    entries = kept.entries()
    groups, ids = kept.neurons(entries)
    in_chunks = sizes.mode == "chunk_topk"
    count = len(kept.samples) if in_chunks else samples
    best_GM = _maxima(groups if in_chunks else kept.samples[groups], ids, entries.scores, count, sizes)
    if in_chunks:
        chosen = _greatest(best_GM, NONE, sizes.k)
        best_GM = _maxima(kept.samples[chosen.rows], chosen.keys, chosen.scores, samples, sizes)
    return _sets(best_GM, sizes, samples)


def _sets(best_SM: torch.Tensor, sizes: SetSizes, samples: int) -> list[SampleSets]:
    floor = 0.0 if sizes.positive_only else NONE
    pairs = sizes.mode == "pairs"
    chosen = _greatest(best_SM, floor, sizes.k if pairs else sizes.neurons)
    sizes_S = chosen.sizes(samples).tolist()
    counts = (best_SM > NONE).sum(1).tolist() if pairs else sizes_S  # in the other modes U = N
    by_sample = zip(counts, chosen.keys.split(sizes_S), chosen.scores.split(sizes_S))
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
