"""Memory of a device that another process reads in place (server.weight_sync=ipc): right, and how fast.

`shared_memory(device, size)` is a part of tools/gpu_check.py.
"""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

import torch

from nopsd.rollout.shared_buffer import SharedBuffer, opened
from nopsd.rollout.weight_sums import weighted_sum

GIB = 2**30


def shared_memory(device: str, size: int) -> dict[str, Any]:
    """A buffer of `size` bytes, written twice: whether the other process reads the same, and at what rate."""
    spawn = multiprocessing.get_context("spawn")
    asked, answers = spawn.SimpleQueue(), spawn.SimpleQueue()
    buffer = SharedBuffer(size, _device(device))
    reader = spawn.Process(target=read_shared, args=(device, buffer.handle(), asked, answers), daemon=True)
    reader.start()
    right, seconds = [], []
    for _ in range(2):
        buffer.bytes.random_(256)
        buffer.written()
        asked.put(True)
        total, took = answers.get()
        right.append(total == _checksum(buffer.bytes))
        seconds.append(took)
    asked.put(False)
    reader.join()
    buffer.close()
    return {"MiB": size >> 20, "GiB/s": size / min(seconds) / GIB, "right": all(right)}


def read_shared(device: str, handle: dict[str, Any], asked: Any, answers: Any) -> None:
    """The other process."""
    whole = opened(handle, _device(device))
    while asked.get():
        start = time.perf_counter()
        copy = whole.clone()
        if whole.is_cuda:
            torch.cuda.synchronize()
        answers.put((_checksum(copy), time.perf_counter() - start))


def _checksum(whole: torch.Tensor) -> int:
    return int(weighted_sum(whole.view(1024, -1)))


def _device(name: str) -> torch.device:
    return torch.device("cuda", 0) if name == "cuda" else torch.device(name)
