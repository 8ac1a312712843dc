"""One layer's contributions to the tokens of a batch, a chunk of response positions at a time (the paper's Eq. 3).

    S[c, i] = k[c, i] * (w_out_i . e_{y_c})

In: a layer's `LayerActivity`, the rollouts in the batch, the unembedding rows of the batch's distinct scored tokens.
Out: S of each rollout and chunk. Each distinct token is projected once a layer. A matrix product may round differently
for another shape, and an activation for another place in its vector, so both are made on grids that depend on the
batch and the layer alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from nopsd.neurons.activity import LayerActivity
from nopsd.neurons.projection import BlockScores, project


@dataclass(frozen=True)
class ScoredRow:
    """One rollout of the batch: its row, the position projected on its first scored token, and those tokens."""

    row: int
    first: int  # position in the row
    tokens: torch.Tensor  # [T_s] int64: places in `directions_UH`


Scores = tuple[int, int, torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True)
class _Chunk:
    """One chunk of one rollout, in flat positions start <= p < stop."""

    index: int
    first: int  # response position of `start`
    start: int
    stop: int


def layer_scores(
    activity: LayerActivity, rows: Sequence[ScoredRow], directions_UH: torch.Tensor, chunk: int
) -> Iterator[Scores]:
    """Contributions of a layer's neurons to the tokens of each response (the paper's Eq. 3).

    Args:
        activity: What the layer did in a forward pass.
        rows: The scored responses of the batch.
        directions_UH: Unembedding rows of the distinct tokens, float32: tokens x hidden size.
        chunk: Response positions at a time.

    Yields:
        Index into `rows`, response position of S's first row, S [C, W] float32, and columns [C, W] int64: the neuron's
        number in the layer, ascending along a row; None where column j is neuron j. A mixture's positions have columns
        for the experts that they were sent to; S = -inf and column -1 where there is none.
    """
    chunks = _chunks(activity, rows, chunk)
    if not chunks:
        return
    places_P = _places(activity, rows, directions_UH.device)
    spans = [edge for piece in chunks for edge in (piece.start, piece.stop)]
    blocks = [project(block, spans, places_P, directions_UH) for block in activity.blocks]
    dense = len(blocks) == 1 and activity.blocks[0].tokens is None
    for number, piece in enumerate(chunks):
        size = piece.stop - piece.start
        if dense:
            S_CW, columns = blocks[0].projected_UW.new_empty(size, activity.width), None
            blocks[0].fill(number, S_CW)
        else:
            S_CW, columns = _mixture(blocks, number, size, piece.start)
        yield piece.index, piece.first, S_CW, columns


def _chunks(activity: LayerActivity, rows: Sequence[ScoredRow], chunk: int) -> list[_Chunk]:
    chunks = []
    for index, row in enumerate(rows):
        count, origin = len(row.tokens), row.row * activity.shape[1] + row.first
        for first in range(0, count, chunk):
            chunks.append(_Chunk(index, first, origin + first, origin + min(first + chunk, count)))
    return chunks


def _places(activity: LayerActivity, rows: Sequence[ScoredRow], device: torch.device) -> torch.Tensor:
    """[B * T] int64: at each flat position, the place of the token that it is scored on; -1 where none is."""
    places_BT = torch.full(activity.shape, -1, dtype=torch.long, device=device)
    for row in rows:
        places_BT[row.row, row.first : row.first + len(row.tokens)] = row.tokens.to(device)
    return places_BT.view(-1)


def _mixture(blocks: Sequence[BlockScores], number: int, size: int, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each position's experts side by side, by ascending number, in slots as wide as the widest of them."""
    reached = [(block, block.positions(number) - start) for block in blocks if block.count(number)]
    width = max((block.width for block, _ in reached), default=0)
    device = blocks[0].projected_UW.device if blocks else torch.device("cpu")
    used_C = torch.zeros(size, dtype=torch.long, device=device)
    for _, at in reached:
        used_C[at] += 1
    slots = int(used_C.max()) if reached else 0
    S_CNW = torch.full((size, slots, width), -torch.inf, device=device)
    columns_CNW = torch.full((size, slots, width), -1, dtype=torch.long, device=device)
    used_C.zero_()
    for block, at in reached:
        scores = S_CNW.new_empty(len(at), block.width)
        block.fill(number, scores)
        first = block.block.first
        S_CNW[at, used_C[at], : block.width] = scores
        columns_CNW[at, used_C[at], : block.width] = torch.arange(first, first + block.width, device=device)
        used_C[at] += 1
    return S_CNW.view(size, -1), columns_CNW.view(size, -1)
