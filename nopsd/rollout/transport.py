"""How weights are sent to a server: used by the trainer and by vLLM's workers.

Over gloo a group is 1 trainer process and all of one server's workers, and each bucket of parameters one broadcast of
bytes. Both sides compute the same buckets, and the same places in them, from the parameters' sizes. Needs torch alone.

Who can reach it: the rendezvous store (nopsd.engine.store) listens only on the address from which the server is
reached, under a name that only the server receives, and is closed once the group is connected; gloo's
own sockets listen on that address too. The data is neither encrypted nor signed: the hosts' network is trusted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Protocol

import torch
import torch.distributed as dist

ALIGNMENT = 64


def nbytes(dtype_name: str, shape: Sequence[int]) -> int:
    """Bytes of a dense tensor; `dtype_name` as in "float32"."""
    dtype: torch.dtype = getattr(torch, dtype_name)
    return int(dtype.itemsize) * math.prod(shape)


def plan_buckets(sizes: Sequence[int], cap: int) -> list[list[int]]:
    """Group tensors in order.

    Args:
        sizes: Bytes of each.
        cap: Bytes of a group, at most; a larger tensor goes alone.

    Returns:
        Positions, by group.
    """
    buckets: list[list[int]] = []
    room = 0
    for position, size in enumerate(sizes):
        if not buckets or size > room:
            buckets.append([])
            room = cap
        buckets[-1].append(position)
        room -= size
    return buckets


def places(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Where each item of a bucket begins, fit for any dtype, and the bucket's size, in bytes."""
    starts, end = [], 0
    for size in sizes:
        starts.append(end)
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return starts, end


class Meta(Protocol):
    """Of a parameter: its name, its number format ("float32") and its whole shape."""

    @property
    def name(self) -> str: ...

    @property
    def dtype_name(self) -> str: ...

    @property
    def shape(self) -> Sequence[int]: ...


def pack(stream: Iterator[tuple[str, torch.Tensor | None]], metas: Sequence[Meta], whole: torch.Tensor) -> torch.Tensor:
    """The next parameters of a stream as bytes, in the front part of `whole`, which is returned."""
    sizes = [nbytes(meta.dtype_name, meta.shape) for meta in metas]
    starts, total = places(sizes)
    for meta, start, size in zip(metas, starts, sizes, strict=True):
        name, tensor = next(stream)
        if name != meta.name or tensor is None:
            raise RuntimeError(f"expected parameter {meta.name}, the module gave {name}")
        whole[start : start + size].copy_(tensor.contiguous().view(-1).view(torch.uint8))
    return whole[:total]


def gloo_group(
    store: dist.Store, name: str, own_address: str, rank: int, world: int, timeout_s: float
) -> dist.ProcessGroupGloo:
    """A group apart from the trainer's default one. Rank 0 is the trainer's sender."""
    options = dist.ProcessGroupGloo._Options()
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=own_address)]
    options._timeout = timedelta(seconds=timeout_s)
    return dist.ProcessGroupGloo(dist.PrefixStore(name, store), rank, world, options)


def start_broadcast(group: dist.ProcessGroupGloo, buffer: torch.Tensor) -> dist.Work:
    """Broadcast from rank 0, under way on a thread of gloo's; `buffer` must be left alone until it has ended."""
    options = dist.BroadcastOptions()
    options.rootRank = 0
    return group.broadcast([buffer], options)


def finish(work: dist.Work, watch: Callable[[], None] | None = None) -> None:
    """Wait for a broadcast's end. `watch` is called while waiting and may raise to give up."""
    pause_s = 0.0002
    while watch is not None and not work.is_completed():
        watch()
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)
    work.wait()
