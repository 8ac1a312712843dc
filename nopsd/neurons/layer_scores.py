"""One layer's contributions to the tokens of a batch, a chunk of response positions at a time (SPEC §3.2, §13.1).

    S[c, i] = k[c, i] * (w_out_i . e_{y_c})

In: a layer's `LayerActivity`, the rollouts in the batch, the unembedding rows of the batch's distinct scored tokens.
Out: S of each rollout and chunk, or the part of it that a rank is to make (`Share`).

Each distinct token is projected once a layer. An element of S has the same bits whatever the share: a matrix product
may round differently for another shape, and an activation for another place in its vector, so both are made on grids
that depend on the batch and the layer alone; gathers and products of two floats are exact at any shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from nopsd.neurons.activity import LayerActivity
from nopsd.neurons.projection import BlockScores, edge, project


@dataclass(frozen=True)
class ScoredRow:
    """One rollout of the batch: its row, the position projected on its first scored token, and those tokens."""

    row: int
    first: int  # position in the row
    tokens: torch.Tensor  # [T_s] int64: places in `directions_UH`


@dataclass(frozen=True)
class Share:
    """Which part of a batch's scores a rank makes; None: all. `neurons`, `positions`: (rank, number of ranks)."""

    layers: range | None = None
    neurons: tuple[int, int] | None = None
    positions: tuple[int, int] | None = None


EVERYTHING = Share()
Scores = tuple[int, int, torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True)
class _Piece:
    """What a share has of one chunk of one rollout, in flat positions: start <= p < stop, inside the chunk's."""

    index: int
    first: int  # response position of `start`
    chunk_start: int
    chunk_stop: int
    start: int
    stop: int


def layer_scores(
    activity: LayerActivity,
    rows: Sequence[ScoredRow],
    directions_UH: torch.Tensor,
    chunk: int,
    share: Share = EVERYTHING,
) -> Iterator[Scores]:
    """Yield (index into `rows`, response position of S's first row, S [C, W] float32, columns [C, W] int64 or None).

    `directions_UH`: float32 unembedding rows of the distinct tokens. `columns`: the neuron's number in the layer,
    ascending along a row; None where column j is neuron j. A mixture's positions have columns for the experts they
    were sent to; S = -inf and column -1 where there is none. A share's slices are contiguous and near-equal: of the
    layer's neurons at edges of the grid, of each rollout's scored positions anywhere; chunks stay where they are, so
    one that is cut is yielded with the position of its first row here. Empty parts are not yielded.
    """
    if share.layers is not None and activity.layer not in share.layers:
        return
    pieces = _pieces(activity, rows, chunk, share)
    low, high = _neurons(activity, share)
    if not pieces or low == high:
        return
    places_P = _places(activity, rows, directions_UH.device)
    spans = [span for piece in pieces for span in (piece.chunk_start, piece.chunk_stop, piece.start, piece.stop)]
    blocks = [project(block, spans, places_P, directions_UH, low, high) for block in activity.blocks]
    present = [block for block in blocks if block is not None]
    whole = len(activity.blocks) == 1 and activity.blocks[0].tokens is None
    for number, piece in enumerate(pieces):
        size = piece.stop - piece.start
        if whole:
            S_CW, columns = _dense(present[0], number, size, (low, high) == (0, activity.width))
        else:
            S_CW, columns = _mixture(present, number, size, piece.start)
        yield piece.index, piece.first, S_CW, columns


def _neurons(activity: LayerActivity, share: Share) -> tuple[int, int]:
    if share.neurons is None or not activity.blocks:
        return 0, activity.width
    rank, world = share.neurons
    block = activity.blocks[0]
    low, high = (edge(activity.width * r // world, block) for r in (rank, rank + 1))
    return low, activity.width if rank + 1 == world else high


def _pieces(activity: LayerActivity, rows: Sequence[ScoredRow], chunk: int, share: Share) -> list[_Piece]:
    pieces = []
    for index, row in enumerate(rows):
        count, origin = len(row.tokens), row.row * activity.shape[1] + row.first
        rank, world = share.positions or (0, 1)
        low, high = count * rank // world, count * (rank + 1) // world
        for begin in range(low // chunk * chunk, high, chunk):
            end = min(begin + chunk, count)
            start, stop = max(begin, low), min(end, high)
            if start < stop:
                pieces.append(_Piece(index, start, origin + begin, origin + end, origin + start, origin + stop))
    return pieces


def _places(activity: LayerActivity, rows: Sequence[ScoredRow], device: torch.device) -> torch.Tensor:
    """[B * T] int64: at each flat position, the place of the token that it is scored on; -1 where none is."""
    places_BT = torch.full(activity.shape, -1, dtype=torch.long, device=device)
    for row in rows:
        places_BT[row.row, row.first : row.first + len(row.tokens)] = row.tokens.to(device)
    return places_BT.view(-1)


def _dense(block: BlockScores, number: int, size: int, all_neurons: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    S_CW = block.projected_UW.new_empty(size, block.width)
    block.fill(number, S_CW)
    if all_neurons:
        return S_CW, None
    return S_CW, torch.arange(block.low, block.high, device=S_CW.device).expand(size, -1)


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
        S_CNW[at, used_C[at], : block.width] = scores
        columns_CNW[at, used_C[at], : block.width] = torch.arange(block.low, block.high, device=device)
        used_C[at] += 1
    return S_CNW.view(size, -1), columns_CNW.view(size, -1)
