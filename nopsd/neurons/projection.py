"""One block of neurons projected on the tokens it is scored on, on a fixed grid.

In: a `Block`, the spans of flat positions to score, directions [U, H]. Out: contributions, written chunk by chunk.
Everything here is shaped by the batch and the layer; see nopsd.neurons.layer_scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nopsd.neurons.activity import Block


@dataclass(frozen=True)
class Grid:
    """Sizes of the tiles that a product or an activation is made in."""

    tokens: int
    positions: int
    parts: int  # tiles that a block's neurons are cut into, about
    neurons: int  # and how wide a tile is at most


# On a CPU tiles that stay in its cache; a GPU needs few and large ones, and its activations do not depend on place.
CPU_GRID = Grid(tokens=256, positions=64, parts=16, neurons=256)
GPU_GRID = Grid(tokens=4096, positions=1 << 30, parts=8, neurons=4096)
NARROWEST = 8


def grid_of(block: Block) -> Grid:
    """The grid of the device that holds the block."""
    return CPU_GRID if block.down_HF.device.type == "cpu" else GPU_GRID


def tile_width(block: Block) -> int:
    """Neurons in a tile of this block's grid: a multiple of 8."""
    grid = grid_of(block)
    even = -(-block.width // grid.parts)
    return min(grid.neurons, max(NARROWEST, -(-even // NARROWEST) * NARROWEST))


@dataclass(frozen=True)
class BlockScores:
    """A block's neurons, projected on its U_b tokens."""

    block: Block
    cuts: list[int]  # two for each chunk: how many of the block's rows precede its start and its stop
    places_P: torch.Tensor
    found_U: torch.Tensor | None  # [U_b] ascending: places of the projection's rows; None: all places in order
    projected_UW: torch.Tensor  # [U_b, F_b] float32; rows that no chunk needs are not filled in

    @property
    def width(self) -> int:
        """F_b."""
        return self.block.width

    def count(self, number: int) -> int:
        """How many of the block's rows lie in chunk `number`."""
        return self.cuts[2 * number + 1] - self.cuts[2 * number]

    def positions(self, number: int) -> torch.Tensor:
        """[count] int64: the flat positions of those rows."""
        assert self.block.tokens is not None
        return self.block.tokens[self.cuts[2 * number] : self.cuts[2 * number + 1]]

    def fill(self, number: int, out_CW: torch.Tensor) -> None:
        """Write the contributions of chunk `number` into `out_CW` [count, F_b] float32."""
        start, stop = self.cuts[2 * number : 2 * number + 2]
        step = grid_of(self.block).positions
        for low in range(start, stop, step):
            high = min(low + step, stop)
            values_CF = self.block.values(slice(low, high)).float()
            places_C = _rows_of(self.block, self.places_P, low, high, self.found_U)
            torch.mul(values_CF, self.projected_UW[places_C], out=out_CW[low - start : high - start])


def project(block: Block, spans: Sequence[int], places_P: torch.Tensor, directions_UH: torch.Tensor) -> BlockScores:
    """Project the tokens scored at a block's positions on its neurons.

    Args:
        block: Neurons that share a down projection.
        spans: Start and stop of each chunk, flat positions, ascending.
        places_P: For each flat position the row of `directions_UH` of the token that is scored there.
        directions_UH: Unembedding rows of the distinct tokens, float32.

    Returns:
        The contributions, made by tiles of tokens; tiles that no chunk needs stay unmade.
    """
    found_U = None if block.tokens is None else _found(places_P[block.tokens])
    count = len(directions_UH) if found_U is None else len(found_U)
    cuts = block.cuts(spans)
    needed = _needed(block, cuts, places_P, found_U, grid_of(block).tokens)
    directions = _as_exact(directions_UH, block.down_HF)
    projected_UW = directions_UH.new_empty(count, block.width)
    step = tile_width(block)
    for first in range(0, block.width, step):
        last = min(first + step, block.width)
        down_HW = block.down_HF[:, first:last].to(directions.dtype)
        for start in needed:
            rows = slice(start, start + grid_of(block).tokens)
            part_UH = directions[rows] if found_U is None else directions[found_U[rows]]
            projected_UW[rows, first:last] = _product(part_UH, down_HW)
    return BlockScores(block, cuts, places_P, found_U, projected_UW)


def _as_exact(directions_UH: torch.Tensor, down_HF: torch.Tensor) -> torch.Tensor:
    """On a GPU the directions in the weight's half precision if they came from it: its products are exact in float32,
    and its matrix units add them up there, many times faster than float32's. Else as they are.
    """
    if down_HF.device.type != "cuda" or down_HF.dtype == torch.float32:
        return directions_UH
    half_UH = directions_UH.to(down_HF.dtype)
    return half_UH if torch.equal(half_UH.float(), directions_UH) else directions_UH


def _product(left_UH: torch.Tensor, right_HW: torch.Tensor) -> torch.Tensor:
    """Float32 products and sums."""
    if left_UH.dtype == torch.float32:
        return left_UH @ right_HW
    return torch.mm(left_UH, right_HW, out_dtype=torch.float32)


def _found(places: torch.Tensor) -> torch.Tensor:
    return torch.unique(places[places >= 0])


def _rows_of(block: Block, places_P: torch.Tensor, low: int, high: int, found_U: torch.Tensor | None) -> torch.Tensor:
    """Rows of the tiles for the block's rows low <= r < high."""
    places_R = places_P[low:high] if block.tokens is None else places_P[block.tokens[low:high]]
    return places_R if found_U is None else torch.searchsorted(found_U, places_R)


def _needed(
    block: Block, cuts: Sequence[int], places_P: torch.Tensor, found_U: torch.Tensor | None, step: int
) -> list[int]:
    """Starts of the token tiles that the chunks reach."""
    reached = [_rows_of(block, places_P, low, high, found_U) for low, high in zip(cuts[0::2], cuts[1::2])]
    result: list[int] = (torch.unique(torch.cat(reached) // step) * step).tolist()
    return result
