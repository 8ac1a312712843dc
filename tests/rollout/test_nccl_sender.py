"""The deadline of weights by NCCL, on a pretended device: without it a server that dies in a broadcast, or never joins,
leaves the run waiting for ever. That NCCL itself works is for a GPU to show."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nopsd.errors import ServerError
from nopsd.rollout.senders import NcclSender
from nopsd.rollout.weight_source import WeightSource

factory = pytest.importorskip("vllm.distributed.weight_transfer.factory")


class Server:
    url = "http://127.0.0.1:1"

    def world_size(self) -> int:
        return 1

    def set_policy_version(self, version: int, timeout_s: float) -> None:
        self.version = version


class Engine:
    """vLLM's trainer side: a broadcast that ends by itself, or only once its group is aborted."""

    def __init__(self, joined: bool) -> None:
        self.ended = threading.Event()
        self.joined, self.aborted = joined, False

    def send_weights(self) -> None:
        if not self.joined:
            assert self.ended.wait(10)
            raise RuntimeError("unhandled cuda error")

    def shutdown(self) -> None:
        self.aborted = True
        self.ended.set()


def sender(monkeypatch: pytest.MonkeyPatch, trainer_init: Any, timeout_s: float = 0.3) -> NcclSender:
    monkeypatch.setattr(factory.WeightTransferTrainerFactory, "trainer_init", trainer_init)
    return NcclSender(WeightSource(torch.nn.Linear(2, 2), is_sender=True), 1 << 20, timeout_s)


def test_a_rendezvous_that_no_server_joins_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    made = sender(monkeypatch, lambda *_, **__: released.wait(20))
    began = time.monotonic()
    with pytest.raises(ServerError, match=r"NCCL's rendezvous with http://127.0.0.1:1: no end within 0.3 s"):
        made.connect([Server()])  # type: ignore[list-item]
    assert time.monotonic() - began < 5
    released.set()


@pytest.mark.parametrize("joined", [True, False])
def test_a_broadcast_that_a_server_left_is_aborted(joined: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, server = Engine(joined), Server()
    made = sender(monkeypatch, lambda *_, **__: engine)
    made.connect([server])  # type: ignore[list-item]
    if joined:
        assert made.send(iter(()), [server], 7) == {} and server.version == 7  # type: ignore[list-item]
        time.sleep(0.5)
        assert not engine.aborted  # by the deadline of what has ended
        return
    with pytest.raises(ServerError, match=r"NCCL's broadcast to http://127.0.0.1:1 had no end within 0.3 s"):
        made.send(iter(()), [server], 7)  # type: ignore[list-item]
    assert engine.aborted


def test_a_failure_before_the_deadline_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("out of memory")

    engine = SimpleNamespace(send_weights=fail, shutdown=lambda: None)
    made = sender(monkeypatch, lambda *_, **__: engine)
    server = Server()
    made.connect([server])  # type: ignore[list-item]
    with pytest.raises(RuntimeError, match="out of memory"):
        made.send(iter(()), [server], 1)  # type: ignore[list-item]
