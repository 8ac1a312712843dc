"""Sparse neuron sets of a response (the paper's Eqs. 4, 5): U (counted), N_K (compared); and of a question's several.

In: the config and a model's widths; the sets of a question's rollouts. Out: `SetSizes`, `SampleSets`. Pure.
A neuron's global id is the widths of the layers before its own, plus its place in it: g = l * F + i. Every tie is
broken by the lower position, neuron or id, so that equal scores give equal sets on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, combinations

import torch

from nopsd.config import NeuronConfig
from nopsd.config.layers import chosen_layers


@dataclass(frozen=True)
class SetSizes:
    """What the sets are made by, for one model: `per_layer` neurons a layer and chunk, `k` = K, widths.

    `scored`: the layers whose neurons are scored. Ids, widths and histograms are those of the whole model.
    """

    mode: str
    merge: str
    per_layer: int
    k: int
    chunk: int
    positive_only: bool
    widths: tuple[int, ...]
    scored: tuple[int, ...]

    @property
    def layers(self) -> int:
        return len(self.widths)

    @property
    def neurons(self) -> int:
        """M, all layers' neurons."""
        return sum(self.widths)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Global id of each layer's first neuron, and M at the end."""
        return (0, *accumulate(self.widths))


@dataclass(frozen=True)
class SampleSets:
    """`count` = |U| (a mean over a question's rollouts); `ids` [<=K] int64 of N_K by (-score, id), `scores` float32."""

    count: float
    ids: torch.Tensor
    scores: torch.Tensor
    histogram: torch.Tensor  # [L] int64: members of N_K in each layer


def set_sizes(config: NeuronConfig, widths: Sequence[int], active: Sequence[int] | None = None) -> SetSizes:
    """How many pairs of a layer and neurons of a response are kept.

    Args:
        config: Its numbers or, with `scale_with_width`, the paper's ratios to this model's width.
        widths: Neurons of each layer.
        active: Those that one token reaches; None: all.

    Raises:
        ConfigError: `config.layers` names a layer that the model lacks.
    """
    per_layer, k = config.per_layer, config.k
    scored = chosen_layers(config.layers, len(widths))
    if config.scale_with_width:
        met = active or widths  # of a mixture, a token meets only the experts it is sent to
        reached = sum(met[layer] for layer in scored)
        per_layer, k = max(1, round(0.2056 * reached / len(scored))), max(1, round(0.01428 * reached))
    return SetSizes(
        config.count_mode, config.chunk_merge, per_layer, k, config.chunk, config.positive_only, tuple(widths), scored
    )


def sample_sets(count: float, ids: torch.Tensor, scores: torch.Tensor, sizes: SetSizes) -> SampleSets:
    """A response's count and set.

    Args:
        count: Neurons that were active, s.
        ids: Global ids of N_K's members, ascending, [E].
        scores: Their scores, [E].
        sizes: Where each layer's ids begin.

    Returns:
        On the CPU: the ids by falling score, and how many are in each layer.
    """
    scores, order = torch.sort(scores, descending=True, stable=True)
    ids = ids[order].cpu()
    layers = torch.searchsorted(torch.tensor(sizes.offsets[1:]), ids, right=True)
    return SampleSets(count, ids, scores.cpu(), torch.bincount(layers, minlength=sizes.layers))


def merge_rollouts(samples: Sequence[SampleSets], sizes: SetSizes) -> SampleSets:
    """Several rollouts of one question: the mean count, and the top K of the max-merged scores.

    Merging the top-K lists gives the same as merging everything: a neuron in the merged top-K is in the top-K of the
    rollout where it has its greatest score.

    Args:
        samples: One a rollout.
        sizes: Gives K.
    """
    if len(samples) == 1:
        return samples[0]
    ids, place = torch.unique(torch.cat([s.ids for s in samples]), return_inverse=True)
    scores = torch.full((len(ids),), -torch.inf)
    scores.scatter_reduce_(0, place, torch.cat([s.scores for s in samples]), "amax")
    order = torch.sort(scores, descending=True, stable=True).indices
    if sizes.mode == "pairs":
        order = order[: sizes.k]
    kept = order.sort().values
    return sample_sets(sum(s.count for s in samples) / len(samples), ids[kept], scores[kept], sizes)


def agreement(samples: Sequence[SampleSets]) -> float:
    """Mean Jaccard similarity of N_K over all pairs of a question's rollouts (NAD); NaN with fewer than two.

    Two empty sets share nothing: similarity 0, as their distance is 1.
    """
    sets = [set(s.ids.tolist()) for s in samples]
    pairs = [len(a & b) / max(len(a | b), 1) for a, b in combinations(sets, 2)]
    return math.fsum(pairs) / len(pairs) if pairs else math.nan  # fsum: the same in any order
