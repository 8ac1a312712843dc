"""What is kept of every layer's contributions while a forward pass runs (the paper's Eqs. 4 and 5): the first top-n.

In: contributions S [C, W] of a response's positions in one layer, from `layer_scores`. Out: `Entries` in numbered rows:
* `pairs`, `chunk_topk`: the n greatest (position, neuron) pairs of each layer and chunk; with `chunk_merge: exact` of
  each layer, as a running list. Row: layer * G + group, where the G groups are all responses' chunks (or responses).
* `token_topk`: the K greatest neurons of each position over all layers, as a running list. Row: the position among all
  responses' positions; groups are the responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import torch

from nopsd.neurons.entries import NONE, Entries, joined
from nopsd.neurons.sets import SetSizes
from nopsd.neurons.top import top_flat, top_mask


class Collector(Protocol):
    """Takes each layer's S once, pieces of a response by ascending position."""

    samples: torch.Tensor  # [G] the response of each group

    def add(
        self, sample: int, layer: int, first: int, scores_CW: torch.Tensor, columns_CW: torch.Tensor | None
    ) -> None:
        """Take part of a layer's scores.

        Args:
            sample: Number of the response in the batch.
            layer: Number of the layer, from 0.
            first: Response position of the first row.
            scores_CW: Contributions, positions x neurons, float32.
            columns_CW: Each column's neuron in the layer; None: 0, 1, ...
        """
        ...

    def entries(self) -> Entries: ...

    def neurons(self, entries: Entries) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each entry the group and the neuron's global id."""
        ...


def collector(sizes: SetSizes, lengths: Sequence[int], device: torch.device) -> Collector:
    """For responses of so many scored positions, the collector of `sizes.mode`."""
    kind = _Positions if sizes.mode == "token_topk" else _Pairs
    return kind(sizes, lengths, device)


class _Pairs:
    def __init__(self, sizes: SetSizes, lengths: Sequence[int], device: torch.device) -> None:
        self.sizes, self.device = sizes, device
        self.running = sizes.merge == "exact" and sizes.mode == "pairs"
        groups = [1 if self.running else -(-length // sizes.chunk) for length in lengths]
        self.bases = (0, *accumulate(groups))
        self.samples = torch.arange(len(lengths), device=device).repeat_interleave(torch.tensor(groups, device=device))
        self.lists: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by row: keys, scores; keys ascend

    def add(
        self, sample: int, layer: int, first: int, scores_CW: torch.Tensor, columns_CW: torch.Tensor | None
    ) -> None:
        n, width = self.sizes.per_layer, self.sizes.widths[layer]
        place = top_flat(scores_CW, n)
        scores = scores_CW.reshape(-1)[place] + 0.0  # -0.0 becomes 0.0: they tie, so they must not differ
        if columns_CW is None:
            keys = first * width + place
        else:
            position, column = place // scores_CW.shape[1], place % scores_CW.shape[1]
            keys = (first + position) * width + columns_CW[position, column]
        group = self.bases[sample] + (0 if self.running else first // self.sizes.chunk)
        row = layer * len(self.samples) + group
        if row in self.lists:  # earlier positions stand first, so ties fall to them
            keys, scores = torch.cat([self.lists[row][0], keys]), torch.cat([self.lists[row][1], scores])
            kept = top_flat(scores, n)
            keys, scores = keys[kept], scores[kept]
        self.lists[row] = (keys, scores)

    def entries(self) -> Entries:
        return joined([(row, *lists) for row, lists in self.lists.items()], self.device)

    def neurons(self, entries: Entries) -> tuple[torch.Tensor, torch.Tensor]:
        groups = max(1, len(self.samples))
        layer = entries.rows // groups
        widths = torch.tensor(self.sizes.widths, device=self.device)
        offsets = torch.tensor(self.sizes.offsets, device=self.device)
        return entries.rows % groups, offsets[layer] + entries.keys % widths[layer]


class _Positions:
    def __init__(self, sizes: SetSizes, lengths: Sequence[int], device: torch.device) -> None:
        self.sizes, self.device = sizes, device
        self.bases = (0, *accumulate(lengths))
        self.samples = torch.arange(len(lengths), device=device)
        self.positions = self.samples.repeat_interleave(torch.tensor(lengths, device=device))
        self.lists: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by first row: ids [C, <=K] ascending, scores

    def add(
        self, sample: int, layer: int, first: int, scores_CW: torch.Tensor, columns_CW: torch.Tensor | None
    ) -> None:
        if columns_CW is None:
            columns_CW = torch.arange(scores_CW.shape[1], device=scores_CW.device).expand_as(scores_CW)
        ids, row = self.sizes.offsets[layer] + columns_CW, self.bases[sample] + first
        if row in self.lists:  # ids ascend along each row, so ties fall to the lower id
            ids = torch.cat([self.lists[row][0], ids], 1)
            scores_CW = torch.cat([self.lists[row][1], scores_CW], 1)
        kept = top_mask(scores_CW, self.sizes.k)
        shape = (scores_CW.shape[0], -1)
        self.lists[row] = (ids[kept].view(shape), scores_CW[kept].view(shape))

    def entries(self) -> Entries:
        flat = [
            (torch.arange(row, row + len(ids), device=self.device)[:, None].expand_as(ids), ids, scores)
            for row, (ids, scores) in self.lists.items()
        ]
        if not flat:
            return joined([], self.device)
        rows, ids, scores = (torch.cat([part.reshape(-1) for part in parts]) for parts in zip(*flat))
        return Entries(rows, ids, scores + 0.0).pick(scores > NONE)

    def neurons(self, entries: Entries) -> tuple[torch.Tensor, torch.Tensor]:
        return self.positions[entries.rows], entries.keys
