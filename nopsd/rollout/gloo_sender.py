"""Weights over gloo, to one server or to several at once, with one process group per server.

In: the parameters' metas, then a stream of whole tensors. Out: every server that still runs holds them all. One group
per server, so that a server that dies breaks no other's transfer; the cost is that the trainer's link carries the bytes
once per server. While a bucket is sent the next one is gathered and packed, and the server loads the one before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import urlsplit

import torch
import torch.distributed as dist

from nopsd.engine.store import join_store, open_store
from nopsd.errors import ServerError
from nopsd.keys import new_key
from nopsd.network import address_towards
from nopsd.rollout.background import Background, all_at_once
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.transport import finish, gloo_group, nbytes, pack, places, plan_buckets, start_broadcast
from nopsd.rollout.weight_source import WeightMeta

Stream = Iterator[tuple[str, "torch.Tensor | None"]]
Failures = dict[RolloutClient, Exception]


class Channel:
    """The group with one server's workers, and the update under way there."""

    def __init__(self, client: RolloutClient, bucket_bytes: int, timeout_s: float) -> None:
        """Connects to the workers; ServerError if the server, or the rendezvous, takes longer than `timeout_s`."""
        self.client, self._timeout_s = client, timeout_s
        world = 1 + client.world_size()
        address = address_towards(urlsplit(client.url).hostname or "127.0.0.1")
        store = open_store(address, timeout_s)
        port, name = store.port, new_key()
        info = {
            "master_address": address,
            "master_port": port,
            "group": name,
            "world_size": world,
            "bucket_bytes": bucket_bytes,
            "timeout_s": timeout_s,
        }
        joining = Background(
            # Its own connection: the group keeps it, and `store` can close.
            lambda: gloo_group(join_store(address, port, timeout_s), name, address, 0, world, timeout_s)
        )
        client.request("POST", "/init_weight_transfer_engine", {"init_info": info}, timeout_s)
        self._group: dist.ProcessGroupGloo = joining.result(timeout_s)
        del store  # the workers have read it: the request above has been answered
        self._works: list[dist.Work] = []

    def begin(self, metas: Sequence[WeightMeta]) -> None:
        """Have the server expect the weights."""
        self.client.request("POST", "/start_weight_update", timeout_s=self._timeout_s)
        info = {
            "names": [m.name for m in metas],
            "dtype_names": [m.dtype_name for m in metas],
            "shapes": [list(m.shape) for m in metas],
        }
        self._works = []
        self._deadline = time.monotonic() + self._timeout_s
        self._receiving = Background(
            lambda: self.client.request("POST", "/update_weights", {"update_info": info}, self._timeout_s)
        )

    def start(self, buffer: torch.Tensor) -> None:
        self._works.append(start_broadcast(self._group, buffer))

    def finish_all_but(self, under_way: int, last: bool) -> None:
        """Wait until at most so many broadcasts are under way. `last`: no more will come."""

        def watch() -> None:
            self._receiving.raise_if_failed()
            # The last bucket may be taken, and answered for, before our own side of its broadcast has returned.
            if self._receiving.done() and not last:
                raise ServerError(f"the server at {self.client.url} ended the update before the last weights were sent")
            if time.monotonic() > self._deadline:
                raise ServerError(f"the weights weren't taken within {self._timeout_s:g} s by {self.client.url}")

        while len(self._works) > under_way:
            finish(self._works.pop(0), watch)

    def end(self, version: int) -> None:
        self._receiving.result(max(0.0, self._deadline - time.monotonic()))
        self.client.request("POST", "/finish_weight_update", {"weight_version": str(version)}, self._timeout_s)


class GlooSender:
    """Two buffers of `bucket_bytes` (or of the largest parameter, if that is larger) are held, and used again.

    Small buckets are the faster ones: gathering, travelling and loading overlap, and memory stays in the caches.
    """

    def __init__(self, metas: Sequence[WeightMeta], bucket_bytes: int, timeout_s: float) -> None:
        self._metas, self._bucket_bytes, self._timeout_s = list(metas), bucket_bytes, timeout_s
        self._sizes = [nbytes(m.dtype_name, m.shape) for m in self._metas]
        self._buckets = plan_buckets(self._sizes, bucket_bytes)
        self._channels: dict[RolloutClient, Channel] = {}
        largest = max(places([self._sizes[i] for i in bucket])[1] for bucket in self._buckets)
        self._buffers = [torch.empty(largest, dtype=torch.uint8) for _ in range(2)]

    def connect(self, clients: Sequence[RolloutClient]) -> Failures:
        """Connect to these servers' workers, at the same time; the errors of those that fail."""
        made, failures = all_at_once(
            lambda client: Channel(client, self._bucket_bytes, self._timeout_s), clients, 2 * self._timeout_s
        )
        self._channels.update(made)
        return dict(failures)

    def send(self, stream: Stream, clients: Sequence[RolloutClient], version: int) -> Failures:
        """Bring the weights to these servers, connected before; the errors of those that didn't take them.

        With none left the rest of the stream is left.
        """
        self._channels = {client: self._channels[client] for client in clients}
        failures: Failures = {}
        self._each(lambda channel: channel.begin(self._metas), failures)
        for number, bucket in enumerate(self._buckets, 1):
            if not self._channels:
                return failures
            # The one before may still be under way, from the other buffer; what was in this one has gone.
            buffer = pack(stream, [self._metas[i] for i in bucket], self._buffers[number % 2])
            last = number == len(self._buckets)
            for channel in list(self._channels.values()):
                try:
                    channel.start(buffer)
                    channel.finish_all_but(0 if last else 1, last)
                except Exception as error:  # this server's alone, returned to the caller
                    self._lose(channel, error, failures)
        self._each(lambda channel: channel.end(version), failures)
        return failures

    def _each(self, call: Callable[[Channel], object], failures: Failures) -> None:
        """At every server at the same time."""
        _, failed = all_at_once(call, list(self._channels.values()), 2 * self._timeout_s)
        for channel, error in failed:
            self._lose(channel, error, failures)

    def _lose(self, channel: Channel, error: Exception, failures: Failures) -> None:
        failures[channel.client] = error
        del self._channels[channel.client]

    def close(self) -> None:
        self._channels.clear()
