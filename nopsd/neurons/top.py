"""The greatest of many scores, exactly and in about one pass over memory (the top-n of the paper's Eqs. 4 and 5).

In: contributions of one layer and chunk, or of many positions. Out: the places of the n greatest, every tie broken by
the lower place, so that equal scores give equal sets on every machine.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import pad

from nopsd.errors import UserError

BLOCKS = (64, 16)  # scores that share one maximum; the widest that leaves SPARE maxima for each score wanted
SPARE = 4
NONE = float("-inf")  # a place that holds no score

Compare = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def top_flat(scores: torch.Tensor, n: int) -> torch.Tensor:
    """Places of the greatest scores, exact for every input.

    The n-th greatest of the maxima of blocks is a bound t: n blocks have maxima >= t, so the n-th greatest score is at
    least t, and fewer than n blocks hold any score > t.

    Args:
        scores: Of any shape.
        n: How many.

    Returns:
        Places in the flattened `scores`, int64, ascending, at most n: scores of -inf are never among them. Ties go to
        the lower place.

    Raises:
        UserError: A score is NaN.
    """
    flat = scores.reshape(-1)
    block = next((b for b in BLOCKS if flat.numel() >= SPARE * n * b), None)
    if n <= 0 or block is None:
        return _top_few(flat, n)
    flat_SB = _blocks(flat, block)
    maxima_S = flat_SB.amax(1)  # NaN wherever a block holds one
    _refuse_nan(maxima_S)
    least = torch.topk(maxima_S, n, sorted=False).values.min()
    above = _places(flat_SB, (maxima_S > least).nonzero().flatten(), least, torch.gt)
    if len(above) >= n:
        return above[_top_few(flat[above], n)]
    if bool(least == NONE):
        return above
    # Every block of this maximum holds at least one equal score: the first `room` of these blocks suffice.
    room = n - len(above)
    touched = torch.cat([(maxima_S == least).nonzero().flatten()[:room], (maxima_S > least).nonzero().flatten()])
    equal = _places(flat_SB, touched.sort().values, least, torch.eq)[:room]
    return torch.cat([above, equal]).sort().values


def top_mask(scores_RW: torch.Tensor, n: int) -> torch.Tensor:
    """Mark the greatest of each row.

    Args:
        scores_RW: Rows x columns.
        n: How many of a row; all, if there are fewer.

    Returns:
        Boolean [R, W]; ties go to the lower column.

    Raises:
        UserError: A score is NaN.
    """
    n = min(n, scores_RW.shape[1])
    if n <= 0 or not len(scores_RW):
        _refuse_nan(scores_RW)
        return torch.zeros_like(scores_RW, dtype=torch.bool)
    least = torch.topk(scores_RW, n, dim=1, sorted=False).values.amin(1, keepdim=True)
    _refuse_nan(least)  # to topk NaN is the greatest, to amin the least
    mask = scores_RW >= least
    if int(mask.sum()) == n * scores_RW.shape[0]:
        return mask
    above, tied = scores_RW > least, scores_RW == least
    room = n - above.sum(1, keepdim=True)
    return above | (tied & (tied.cumsum(1) <= room))


def _top_few(flat: torch.Tensor, n: int) -> torch.Tensor:
    """`top_flat` by one `topk`: for few scores, or when most of them are wanted."""
    mask = top_mask(flat[None], n)[0]
    return (mask & (flat != NONE)).nonzero().flatten()


def _blocks(flat: torch.Tensor, block: int) -> torch.Tensor:
    """[S, block], the last filled up with -inf."""
    short = -flat.numel() % block
    return (pad(flat, (0, short), value=NONE) if short else flat).view(-1, block)


def _places(flat_SB: torch.Tensor, blocks: torch.Tensor, least: torch.Tensor, compare: Compare) -> torch.Tensor:
    """Ascending places, in these ascending blocks, of the scores that compare so with `least`."""
    block, offset = compare(flat_SB[blocks], least).nonzero(as_tuple=True)
    return blocks[block] * flat_SB.shape[1] + offset


def _refuse_nan(scores: torch.Tensor) -> None:
    if bool(scores.isnan().any()):
        raise UserError("neuron contributions are NaN: the model's activations overflow; use model.dtype=float32")
