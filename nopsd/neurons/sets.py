"""Sparse neuron sets of one response (SPEC §3.3, G1, G2): U (counted) and N_K (compared).

In: contributions S [C, F] of each layer, a chunk of response positions at a time. Out: `SampleSets`.
A neuron's global id is the widths of the layers before its own, plus its place in it: g = l * F + i. Every tie is
broken by the lower position, neuron or id, so that equal scores give equal sets on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Protocol

import torch

from nopsd.config import NeuronConfig
from nopsd.errors import UserError

NONE = float("-inf")  # the score of a neuron that was never among the top


@dataclass(frozen=True)
class SetSizes:
    """What the sets are made by, for one model: `per_layer` = n and `k` = K of SPEC §3.3, neurons of each layer."""

    mode: str
    merge: str
    per_layer: int
    k: int
    chunk: int
    positive_only: bool
    widths: tuple[int, ...]

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
    """The config's constants, or with `scale_with_width` the paper's ratios to this model's width (§3.3)."""
    per_layer, k = config.per_layer, config.k
    if config.scale_with_width:
        reached = sum(active or widths)  # of a mixture, a token meets only the experts it is sent to
        per_layer, k = max(1, round(0.2056 * reached / len(widths))), max(1, round(0.01428 * reached))
    return SetSizes(
        config.count_mode, config.chunk_merge, per_layer, k, config.chunk, config.positive_only, tuple(widths)
    )


class Accumulator(Protocol):
    """Takes S [C, F] of each layer and chunk (`first` = its first position, from 0) and ends with the best scores."""

    def add(self, layer: int, first: int, scores_CF: torch.Tensor) -> None: ...

    def best(self) -> torch.Tensor:
        """[M] float32: each neuron's greatest kept score, -inf where it is not in U."""
        ...


def accumulator(sizes: SetSizes, device: torch.device) -> Accumulator:
    """The accumulator of the configured reading of the paper (G1, G2)."""
    if sizes.mode == "chunk_topk":
        return _ChunkTop(sizes, device)
    if sizes.mode == "token_topk":
        return _TokenTop(sizes, device)
    return _ExactPairs(sizes, device) if sizes.merge == "exact" else _UnionPairs(sizes, device)


def finish(best_M: torch.Tensor, sizes: SetSizes) -> SampleSets:
    """Count U and cut N_K: positive scores only (if so configured), the K greatest, by (-score, id)."""
    kept_M = best_M > (0.0 if sizes.positive_only else NONE)
    # In the other modes U = N, already cut by chunk or by position.
    limit = sizes.k if sizes.mode == "pairs" else None
    counted = int((best_M > NONE).sum()) if sizes.mode == "pairs" else int(kept_M.sum())
    ids, scores = _ordered(best_M, kept_M, limit)
    return _sample(float(counted), ids, scores, sizes)


def merge_rollouts(samples: Sequence[SampleSets], sizes: SetSizes) -> SampleSets:
    """Several rollouts of one question (§3.1): s = the mean count, N_K = top-K of the max-merged scores.

    Merging the top-K lists gives the same as merging everything: a neuron in the merged top-K is in the
    top-K of the rollout where it has its greatest score.
    """
    if len(samples) == 1:
        return samples[0]
    best_M = _nothing(sizes, samples[0].ids.device)
    for sample in samples:
        best_M.scatter_reduce_(0, sample.ids, sample.scores, "amax")
    ids, scores = _ordered(best_M, best_M > NONE, sizes.k if sizes.mode == "pairs" else None)
    return _sample(sum(s.count for s in samples) / len(samples), ids, scores, sizes)


def top_mask(scores_RW: torch.Tensor, n: int) -> torch.Tensor:
    """Boolean [R, W]: the min(n, W) greatest of each row, ties to the lower column. UserError on NaN."""
    n = min(n, scores_RW.shape[1])
    top = torch.topk(scores_RW, n, dim=1).values
    if bool(top[:, :1].isnan().any()):  # topk sorts NaN first
        raise UserError("neuron contributions are NaN: the model's activations overflow; use model.dtype=float32")
    least = top[:, -1:]
    mask = scores_RW >= least
    if int(mask.sum()) == n * scores_RW.shape[0]:
        return mask
    above, tied = scores_RW > least, scores_RW == least
    room = n - above.sum(1, keepdim=True)
    return above | (tied & (tied.cumsum(1) <= room))


def _nothing(sizes: SetSizes, device: torch.device) -> torch.Tensor:
    return torch.full((sizes.neurons,), NONE, dtype=torch.float32, device=device)


def _ordered(best_M: torch.Tensor, kept_M: torch.Tensor, limit: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    ids = kept_M.nonzero().flatten()
    scores, order = torch.sort(best_M[ids], descending=True, stable=True)
    return ids[order][:limit], scores[:limit]


def _sample(count: float, ids: torch.Tensor, scores: torch.Tensor, sizes: SetSizes) -> SampleSets:
    return SampleSets(count, ids, scores, _by_layer(ids, sizes))


def _by_layer(ids: torch.Tensor, sizes: SetSizes) -> torch.Tensor:
    starts = torch.tensor(sizes.offsets[1:], device=ids.device)
    return torch.bincount(torch.searchsorted(starts, ids, right=True), minlength=sizes.layers)


def _top_pairs(scores_CF: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat indices (position * F + neuron, ascending) and scores of the n greatest pairs."""
    flat = scores_CF.reshape(-1)
    index = top_mask(flat[None], n)[0].nonzero().flatten()
    return index, flat[index]


class _UnionPairs:
    """Top-n (position, neuron) pairs of each layer and chunk, united over chunks (paper App. A)."""

    def __init__(self, sizes: SetSizes, device: torch.device) -> None:
        self.sizes, self.best_M = sizes, _nothing(sizes, device)

    def add(self, layer: int, first: int, scores_CF: torch.Tensor) -> None:
        index, scores = _top_pairs(scores_CF, self.sizes.per_layer)
        ids = self.sizes.offsets[layer] + index % self.sizes.widths[layer]
        self.best_M.scatter_reduce_(0, ids, scores, "amax")

    def best(self) -> torch.Tensor:
        return self.best_M


class _ExactPairs:
    """Top-n pairs of each layer over the whole response ([A]): a running list, independent of the chunk size."""

    def __init__(self, sizes: SetSizes, device: torch.device) -> None:
        self.sizes, self.device = sizes, device
        self.running: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def add(self, layer: int, first: int, scores_CF: torch.Tensor) -> None:
        index, scores = _top_pairs(scores_CF, self.sizes.per_layer)
        neurons = index % self.sizes.widths[layer]
        if layer in self.running:  # earlier positions stand first, so ties fall to them
            neurons = torch.cat([self.running[layer][0], neurons])
            scores = torch.cat([self.running[layer][1], scores])
            kept = top_mask(scores[None], self.sizes.per_layer)[0]
            neurons, scores = neurons[kept], scores[kept]
        self.running[layer] = (neurons, scores)

    def best(self) -> torch.Tensor:
        best_M = _nothing(self.sizes, self.device)
        for layer, (neurons, scores) in self.running.items():
            best_M.scatter_reduce_(0, self.sizes.offsets[layer] + neurons, scores, "amax")
        return best_M


class _ChunkTop:
    """As `_UnionPairs`, but each chunk is cut to its K greatest neurons over all layers before the union."""

    def __init__(self, sizes: SetSizes, device: torch.device) -> None:
        self.sizes, self.device = sizes, device
        self.chunks: dict[int, _UnionPairs] = {}

    def add(self, layer: int, first: int, scores_CF: torch.Tensor) -> None:
        self.chunks.setdefault(first, _UnionPairs(self.sizes, self.device)).add(layer, first, scores_CF)

    def best(self) -> torch.Tensor:
        best_M = _nothing(self.sizes, self.device)
        for chunk in self.chunks.values():
            ids, scores = _ordered(chunk.best_M, chunk.best_M > NONE, self.sizes.k)
            best_M.scatter_reduce_(0, ids, scores, "amax")
        return best_M


class _TokenTop:
    """The K greatest neurons of each position over all layers (main text §3.3), united over positions."""

    def __init__(self, sizes: SetSizes, device: torch.device) -> None:
        self.sizes, self.device = sizes, device
        self.running: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by chunk: ids [C, <=K], scores

    def add(self, layer: int, first: int, scores_CF: torch.Tensor) -> None:
        first_id, width = self.sizes.offsets[layer], self.sizes.widths[layer]
        ids = (first_id + torch.arange(width, device=scores_CF.device)).expand_as(scores_CF)
        if first in self.running:  # columns stay in ascending order of id, so ties fall to the lower id
            ids = torch.cat([self.running[first][0], ids], 1)
            scores_CF = torch.cat([self.running[first][1], scores_CF], 1)
        kept = top_mask(scores_CF, self.sizes.k)
        rows = scores_CF.shape[0]
        self.running[first] = (ids[kept].view(rows, -1), scores_CF[kept].view(rows, -1))

    def best(self) -> torch.Tensor:
        best_M = _nothing(self.sizes, self.device)
        for ids, scores in self.running.values():
            best_M.scatter_reduce_(0, ids.flatten(), scores.flatten(), "amax")
        return best_M
