"""What one layer's neurons did in one forward pass: given by an adapter to a callback.

A layer is one or several blocks of neurons that share a down-projection: a whole MLP, or the experts of a mixture.
Positions are flat: b * T + t for position t of row b. Everything here lives only inside the layer's hook.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Block:
    """Neurons `first`, `first + 1`, ... of a layer, [F_b] of them, at the P positions that they saw."""

    first: int
    down_HF: torch.Tensor  # [H, F_b]: column i is the output direction of neuron first + i
    tokens: torch.Tensor | None  # [P] int64, ascending flat positions; None: all, in order
    # values(rows) -> [R, F_b]: what multiplies the directions at these of the P positions
    values: Callable[[slice], torch.Tensor]

    @property
    def width(self) -> int:
        """F_b."""
        result: int = self.down_HF.shape[1]
        return result

    def rows(self, start: int, stop: int) -> slice:
        """The block's rows that lie at flat positions start <= p < stop."""
        low, high = self.cuts([start, stop])
        return slice(low, high)

    def cuts(self, positions: Sequence[int]) -> list[int]:
        """For each flat position, how many of the block's rows lie before it."""
        if self.tokens is None:
            return list(positions)
        result: list[int] = torch.searchsorted(self.tokens, torch.tensor(positions, device=self.tokens.device)).tolist()
        return result


@dataclass(frozen=True)
class LayerActivity:
    """Layer `layer` (from 0) of `width` neurons over a batch of B rows of T positions; blocks by ascending `first`.

    A mixture's experts are as wide as each other; those that no position was sent to have no block.
    """

    layer: int
    shape: tuple[int, int]
    blocks: tuple[Block, ...]
    width: int
