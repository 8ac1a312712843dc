"""The sender's watch over the receiver: a bug here ended a run at step 73, after 72 good weight syncs."""

import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from nopsd.errors import ServerError
from nopsd.rollout import gloo_sender
from nopsd.rollout.gloo_sender import Channel


class Quick:
    """A server that answers every request at once, the one for the weights included."""

    url = "http://127.0.0.1:1"

    def world_size(self) -> int:
        return 1

    def request(self, *call: object, **options: object) -> dict[str, object]:
        return {}


def send(monkeypatch, last: bool) -> None:
    """One bucket, by a channel whose group only notes what is sent."""
    monkeypatch.setattr(gloo_sender, "open_store", lambda address, timeout_s: SimpleNamespace(port=1))
    monkeypatch.setattr(gloo_sender, "join_store", lambda *where: None)
    monkeypatch.setattr(gloo_sender, "gloo_group", lambda *group: None)
    monkeypatch.setattr(gloo_sender, "start_broadcast", lambda group, buffer: "a broadcast")
    monkeypatch.setattr(gloo_sender, "finish", answered_first)
    channel = Channel(Quick(), 1, 5.0)
    channel.begin([])
    channel.start(torch.empty(1))
    channel.finish_all_but(0, last)


def answered_first(work: str, watch: Callable[[], None]) -> None:
    """The broadcast takes longer than the server's answer: it is watched for a while, as `finish` does."""
    for _ in range(20):
        watch()
        time.sleep(0.01)


def test_the_server_may_answer_before_our_last_broadcast_returns(monkeypatch):
    send(monkeypatch, last=True)


def test_an_answer_before_the_last_bucket_is_an_error(monkeypatch):
    with pytest.raises(ServerError, match="before the last weights"):
        send(monkeypatch, last=False)
