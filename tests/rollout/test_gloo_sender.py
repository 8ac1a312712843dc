"""The sender's watch over the receiver: a bug here ended a run at step 73, after 72 good weight syncs."""

import time

import pytest

from nopsd.errors import ServerError
from nopsd.rollout import gloo_sender
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.gloo_sender import Channel


class Receiving:
    """A server's answer to /update_weights that has come already."""

    def raise_if_failed(self) -> None:
        pass

    def done(self) -> bool:
        return True


def send(monkeypatch, last: bool) -> None:
    channel = Channel.__new__(Channel)
    channel.client, channel._timeout_s, channel._deadline = RolloutClient("http://x"), 1.0, time.monotonic() + 1
    channel._receiving, channel._works = Receiving(), [None]
    monkeypatch.setattr(gloo_sender, "finish", lambda work, watch: watch())
    channel.finish_all_but(0, last)


def test_the_server_may_answer_before_our_last_broadcast_returns(monkeypatch):
    send(monkeypatch, last=True)


def test_an_answer_before_the_last_bucket_is_an_error(monkeypatch):
    with pytest.raises(ServerError, match="before the last weights"):
        send(monkeypatch, last=False)
