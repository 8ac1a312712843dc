"""Numbers of a step's tokens, by response and position, whole on every rank: what is decided over all of a response's
tokens needs them, however the step is split over micro-batches and ranks.

Shapes: S responses of the step, T tokens of the longest, N loss rows of a micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nopsd.engine.distributed import Ranks
from nopsd.train.batches import Example, MicroBatch


def by_response(
    examples: Sequence[Example], batches: Sequence[MicroBatch], found: Sequence[Tensor], ranks: Ranks
) -> Tensor:
    """The values of all ranks' tokens. Collective.

    Args:
        examples: The step's, on every rank.
        batches: This rank's micro-batches.
        found: [K, N] of each of them.
        ranks: All that train.

    Returns:
        float64 [K, S, T]; NaN where a token carries no loss.
    """
    longest = max((len(example.response) for example in examples), default=0)
    total_KST = torch.zeros(len(found[0]) + 1, len(examples), longest, dtype=torch.float64, device=ranks.device)
    for batch, values_KN in zip(batches, found, strict=True):
        counted_N = batch.weights_N > 0
        place = batch.example_N[counted_N], batch.position_N[counted_N]
        total_KST[:-1, *place] = values_KN[:, counted_N].double()
        total_KST[-1, *place] = 1
    total_KST = ranks.all_sum(total_KST)
    return total_KST[:-1].masked_fill(total_KST[-1] == 0, math.nan)
