"""Weights to servers on the trainer's own device, through memory that both see: no copy over a network or the host.

In: the parameters' metas, then a stream of whole tensors. Out: every server that still runs holds them all. One buffer
is written, loaded by all servers at the same time, and used again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import torch

from nopsd.errors import ServerError
from nopsd.network import is_this_host
from nopsd.rollout.background import all_at_once
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.shared_buffer import SharedBuffer
from nopsd.rollout.transport import nbytes, pack, places, plan_buckets
from nopsd.rollout.weight_source import WeightMeta

Stream = Iterator[tuple[str, "torch.Tensor | None"]]
Failures = dict[RolloutClient, Exception]


class IpcSender:
    """A buffer of `bucket_bytes`, or of the largest parameter, if that is larger."""

    def __init__(self, metas: Sequence[WeightMeta], bucket_bytes: int, timeout_s: float, device: torch.device) -> None:
        self._metas, self._timeout_s = list(metas), timeout_s
        sizes = [nbytes(m.dtype_name, m.shape) for m in self._metas]
        self._buckets = plan_buckets(sizes, bucket_bytes)
        self._buffer = SharedBuffer(max(places([sizes[i] for i in b])[1] for b in self._buckets), device)

    def connect(self, clients: Sequence[RolloutClient]) -> Failures:
        """Have these servers open the buffer; the errors of those that can't."""

        def open_there(client: RolloutClient) -> None:
            host = urlsplit(client.url).hostname or ""
            if not is_this_host(host):
                raise ServerError(f"server.weight_sync=ipc needs servers of this host, and {client.url} is none")
            if client.world_size() != 1:
                raise ServerError(f"server.weight_sync=ipc needs server.tensor_parallel=1 at {client.url}")
            body = {"init_info": {"handle": self._buffer.handle()}}
            client.request("POST", "/init_weight_transfer_engine", body, self._timeout_s)

        _, failures = all_at_once(open_there, clients, 2 * self._timeout_s)
        return dict(failures)

    def send(self, stream: Stream, clients: Sequence[RolloutClient], version: int) -> Failures:
        """Bring the weights to these servers, connected before; the errors of those that didn't take them."""
        left = list(clients)
        failures = self._each(left, "/start_weight_update", None)
        for bucket in self._buckets:
            if not left:
                return failures
            metas = [self._metas[i] for i in bucket]
            pack(stream, metas, self._buffer.bytes)
            self._buffer.written()
            info = {
                "names": [m.name for m in metas],
                "dtype_names": [m.dtype_name for m in metas],
                "shapes": [list(m.shape) for m in metas],
            }
            failures |= self._each(left, "/update_weights", {"update_info": info})
        return failures | self._each(left, "/finish_weight_update", {"weight_version": str(version)})

    def _each(self, left: list[RolloutClient], path: str, body: dict[str, Any] | None) -> Failures:
        """At all of them at the same time; those that fail are taken out."""
        _, failures = all_at_once(
            lambda client: client.request("POST", path, body, self._timeout_s), left, 2 * self._timeout_s
        )
        for client, _ in failures:
            left.remove(client)
        return dict(failures)

    def close(self) -> None:
        self._buffer.close()
