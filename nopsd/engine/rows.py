"""Rows of a ZeRO-3-sharded matrix without gathering it whole (the embeddings e_y = E[y] of the response tokens).

In: a 2-D parameter, sharded or not, and the row numbers this rank wants. Out: those rows, exact.
Each rank fills in what its own shard holds of the rows that any rank wants; one all-reduce completes them.
Traffic: unique rows wanted by all ranks × row length, once.
"""

from __future__ import annotations

import torch

from nopsd.engine.distributed import Ranks


def gather_rows(parameter: torch.Tensor, rows: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """Rows of a parameter that may be sharded by ZeRO-3; then all ranks must call.

    Args:
        parameter: [V, H].
        rows: Numbers; they may differ between ranks and be empty.
        ranks: All that hold a shard.

    Returns:
        [len(rows), H] in the parameter's dtype, on `ranks.device`.
    """
    rows = rows.to(ranks.device)
    if not hasattr(parameter, "ds_id"):
        return parameter.detach().to(ranks.device)[rows]
    wanted = torch.unique(torch.cat(ranks.all_gather_ragged(torch.unique(rows))))
    own = _own_part(parameter, wanted, ranks)
    # Each element is non-zero on one rank at most: the sum is exact in any dtype.
    full = ranks.all_sum(own) if wanted.numel() else own
    return full[torch.searchsorted(wanted, rows)]


def _own_part(parameter: torch.Tensor, wanted: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """Shape [len(wanted), H]: what this rank's flat shard holds of the rows, zero elsewhere."""
    width = parameter.ds_shape[1]
    shard = parameter.ds_tensor.detach()
    low = ranks.rank * shard.numel()  # shards are equal pieces of the flat matrix, the last one padded
    high = min(low + shard.numel(), parameter.ds_numel)
    part = torch.zeros(wanted.numel(), width, dtype=shard.dtype, device=ranks.device)
    first, last = -(-low // width), high // width  # whole rows first..last-1 lie in the shard
    if last > first:
        whole = shard[first * width - low : last * width - low].view(-1, width)
        mine = (wanted >= first) & (wanted < last)
        part[mine] = whole[(wanted[mine] - first).to(shard.device)].to(ranks.device)
    for row in {low // width, (high - 1) // width} - set(range(first, last)):
        start, stop = max(low, row * width), min(high, (row + 1) * width)
        if start < stop:
            part[wanted == row, start - row * width : stop - row * width] = shard[start - low : stop - low].to(
                ranks.device
            )
    return part
