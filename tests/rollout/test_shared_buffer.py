"""Weights through memory that trainer and server share: a wrong handle would have a server load what isn't there."""

from __future__ import annotations

import json
import multiprocessing
import os
from typing import Any

import pytest
import torch

from nopsd.errors import ServerError
from nopsd.rollout import shared_buffer
from nopsd.rollout.ipc_sender import IpcSender
from nopsd.rollout.shared_buffer import SharedBuffer, opened
from nopsd.rollout.weight_source import WeightMeta

CPU = torch.device("cpu")


def add_up(handle: str, answer: Any) -> None:
    answer.put(int(opened(json.loads(handle), CPU).sum()))


def test_another_process_reads_what_is_written_later_and_nothing_is_left(tmp_path: Any) -> None:
    buffer = SharedBuffer(100, CPU)
    handle = json.dumps(buffer.handle())
    assert os.stat(buffer.handle()["path"]).st_mode & 0o077 == 0  # weights are for this user alone
    buffer.bytes.fill_(3)
    buffer.written()
    spawn = multiprocessing.get_context("spawn")
    answer = spawn.Queue()
    child = spawn.Process(target=add_up, args=(handle, answer))
    child.start()
    assert answer.get(timeout=120) == 300
    child.join()
    buffer.close()
    assert not os.path.exists(json.loads(handle)["path"])


class Storage:
    """A CUDA storage's own words, as torch's reductions take and give them."""

    shared = (0, b"\x00memory\xff", 64, 0, b"counter\xfe", 5, b"event\x80", True)


def test_a_gpus_handle_travels_as_json_and_another_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a pretended device: each field in its place, the receiver's own number of the device."""
    taken: list[Any] = []

    def new_shared(*fields: Any) -> torch.UntypedStorage:
        taken.extend(fields)
        return torch.UntypedStorage(64)

    names = {torch.device("cuda", 0): "GPU-a", torch.device("cuda", 1): "GPU-b", torch.device("cuda", 3): "GPU-a"}
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, device=None, **keys: empty(*size, **keys))
    monkeypatch.setattr(torch.UntypedStorage, "_share_cuda_", lambda self: Storage.shared)
    monkeypatch.setattr(torch.UntypedStorage, "_new_shared_cuda", staticmethod(new_shared))
    buffer = SharedBuffer(64, torch.device("cuda", 0))
    monkeypatch.setattr(shared_buffer, "gpu_name", lambda device: names.get(device, "GPU-a"))
    handle = json.loads(json.dumps(buffer.handle()))
    assert len(opened(handle, torch.device("cuda", 3))) == 64
    assert taken == [3, *Storage.shared[1:]]
    for other in (torch.device("cuda", 1), CPU):
        with pytest.raises(ServerError, match="lie on GPU GPU-a, this worker is on .*: set server.weight_sync to gloo"):
            opened(handle, other)


class Server:
    """One that can't be served so."""

    def __init__(self, url: str, workers: int) -> None:
        self.url, self.workers = url, workers

    def world_size(self) -> int:
        return self.workers


def test_servers_of_another_host_or_of_several_devices_are_told_apart() -> None:
    sender = IpcSender([WeightMeta("w", "float32", (4,))], 1 << 20, 5.0, CPU)
    far, split = Server("http://192.0.2.1:1", 1), Server("http://127.0.0.1:1", 2)
    failures = sender.connect([far, split])  # type: ignore[list-item]
    assert "needs servers of this host" in str(failures[far])  # type: ignore[index]
    assert "needs server.tensor_parallel=1" in str(failures[split])  # type: ignore[index]
    sender.close()
