"""Memory that another process of this host reads in place: CUDA IPC on a GPU, a mapped file on a CPU.

A handle is JSON, which the server's workers open. vLLM's own engine for this takes pickles over HTTP, and only from
a server that was started to unpickle what it is sent; nothing is unpickled here. That CUDA's side works has not been
seen on a GPU.
"""

from __future__ import annotations

import base64
import os
import tempfile
from typing import Any

import torch
from torch import Tensor

from nopsd.errors import ServerError

IPC_BACKEND = "nopsd-ipc"  # vLLM has an "ipc" of its own
# What torch's reductions of a CUDA tensor hand over, in their order; bytes among them travel as base64.
CUDA_FIELDS = (
    "device",
    "memory",
    "size",
    "offset",
    "ref_counter",
    "ref_counter_offset",
    "event",
    "event_sync_required",
)
CUDA_BYTES = ("memory", "ref_counter", "event")


class SharedBuffer:
    """`size` bytes on `device`. Close it once no other process reads it."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._path: str | None = None
        if device.type == "cuda":
            self.bytes: Tensor = torch.empty(size, dtype=torch.uint8, device=device)
        else:
            folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
            number, self._path = tempfile.mkstemp(prefix="nopsd-weights-", dir=folder)  # for this user alone
            os.close(number)
            self.bytes = torch.from_file(self._path, shared=True, size=size, dtype=torch.uint8)

    def handle(self) -> dict[str, Any]:
        """A new one for each process that will open it."""
        if self._path is not None:
            return {"path": self._path, "size": len(self.bytes)}
        shared = dict(zip(CUDA_FIELDS, self.bytes.untyped_storage()._share_cuda_(), strict=True))
        shared |= {name: base64.b64encode(shared[name]).decode() for name in CUDA_BYTES}
        return {"gpu": gpu_name(self.bytes.device), "cuda": shared}

    def written(self) -> None:
        """What was copied into it is there for others to read."""
        if self.bytes.is_cuda:
            torch.cuda.synchronize(self.bytes.device)

    def close(self) -> None:
        if self._path is not None and os.path.exists(self._path):
            os.unlink(self._path)


def opened(handle: dict[str, Any], device: torch.device) -> Tensor:
    """Another process's buffer.

    Args:
        handle: Of a `SharedBuffer`.
        device: This process's; of a GPU's buffer it must be the same GPU.

    Raises:
        ServerError: It is another GPU, or no GPU.
    """
    if "path" in handle:
        return torch.from_file(handle["path"], shared=True, size=handle["size"], dtype=torch.uint8)
    if device.type != "cuda" or gpu_name(device) != handle["gpu"]:
        raise ServerError(
            f"the trainer's weights lie on GPU {handle['gpu']}, this worker is on {device} of another: "
            "set server.weight_sync to gloo, or nccl"
        )
    shared = {**handle["cuda"], "device": device.index or 0}
    shared |= {name: base64.b64decode(shared[name]) for name in CUDA_BYTES}
    storage = torch.UntypedStorage._new_shared_cuda(*(shared[name] for name in CUDA_FIELDS))
    whole: Tensor = torch.empty(0, dtype=torch.uint8, device=device).set_(storage)
    return whole


def gpu_name(device: torch.device) -> str:
    """The same in every process, whatever CUDA_VISIBLE_DEVICES says."""
    return str(torch.cuda.get_device_properties(device).uuid)
