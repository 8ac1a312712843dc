"""The sender's watch over the receiver: a bug here ended a run at step 73, after 72 good weight syncs."""

import time

import pytest
import torch

from nopsd.errors import ServerError
from nopsd.rollout import senders
from nopsd.rollout.senders import GlooSender


class Receiving:
    """A server's answer to /update_weights that has come already."""

    def raise_if_failed(self) -> None:
        pass

    def done(self) -> bool:
        return True


def send(monkeypatch, last: bool) -> None:
    sender = GlooSender.__new__(GlooSender)
    sender._timeout_s, sender._group = 1.0, None
    monkeypatch.setattr(senders, "broadcast", lambda group, buffer, watch: watch())
    sender._broadcast(torch.zeros(1, dtype=torch.uint8), Receiving(), time.monotonic() + 1, last)


def test_the_server_may_answer_before_our_last_broadcast_returns(monkeypatch):
    send(monkeypatch, last=True)


def test_an_answer_before_the_last_bucket_is_an_error(monkeypatch):
    with pytest.raises(ServerError, match="before the last weights"):
        send(monkeypatch, last=False)
