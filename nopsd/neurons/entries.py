"""Ragged rows of scored candidates: what is collected from a forward pass, and its top-n.

A row is what one top-n is taken of: a layer and chunk of a response, a position, a response. An entry's key is its
place in the row, which breaks ties: position * F + neuron among pairs, the neuron's global id among neurons.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

NONE = float("-inf")  # the score of a neuron that was never among the top


@dataclass(frozen=True)
class Entries:
    """E candidates: `rows` [E] int64, `keys` [E] int64 (distinct in a row), `scores` [E] float32, never -0.0."""

    rows: torch.Tensor
    keys: torch.Tensor
    scores: torch.Tensor

    def pick(self, which: torch.Tensor) -> Entries:
        """The entries of a mask or of places [E']."""
        return Entries(self.rows[which], self.keys[which], self.scores[which])

    def sizes(self, rows: int) -> torch.Tensor:
        """[rows] int64: entries in each row."""
        return torch.bincount(self.rows, minlength=rows)


def joined(lists: list[tuple[int, torch.Tensor, torch.Tensor]], device: torch.device) -> Entries:
    """Entries of (row, keys, scores) lists, in their order."""
    if not lists:
        empty = torch.zeros(0, dtype=torch.int64, device=device)
        return Entries(empty, empty, torch.zeros(0, device=device))
    numbers = torch.tensor([row for row, _, _ in lists], device=device)
    lengths = torch.tensor([len(keys) for _, keys, _ in lists], device=device)
    return Entries(
        numbers.repeat_interleave(lengths), torch.cat([k for _, k, _ in lists]), torch.cat([s for _, _, s in lists])
    )
