"""Keeps the rollout servers' weights equal to the trainer's, version by version (Algorithm 1).

`open_weight_sync(...)` on all ranks, then `.push(version)` after each optimizer step: pause, transfer, reset of the
prefix cache, resume, version read back; at every server at the same time, each phase with a deadline. Of several
servers one that fails is dropped with a warning, and taken up again by a later push once it answers. `load_folder`
serves a checkpoint from disk.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import torch.distributed as dist

from nopsd.config import ServerConfig
from nopsd.errors import ServerError, StaleWeightsError, UserError
from nopsd.files import read_json
from nopsd.network import is_loopback, is_this_host
from nopsd.rollout.background import all_at_once
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.gloo_sender import GlooSender
from nopsd.rollout.held import HeldWeights
from nopsd.rollout.ipc_sender import IpcSender
from nopsd.rollout.senders import DiskSender, Failures, NcclSender, Sender, load_weights_folder
from nopsd.rollout.served_weights import SentWeights
from nopsd.rollout.service import RolloutService
from nopsd.rollout.shared_buffer import IPC_BACKEND
from nopsd.rollout.weight_source import WeightSource

HALF_UPDATED = -1  # the version of a server whose weights are being replaced, or were left so
BUCKET_MIB = {"gloo": 8, "nccl": 256, "disk": 256, "ipc": 256}  # gloo: measured by tools/bench_sync.py
HEALTH_S = 20.0
log = logging.getLogger(__name__)


def choose_backend(config: ServerConfig, device: str, hosts: Sequence[str]) -> str:
    """gloo|nccl|disk|ipc, as the trainer sends. `auto` is nccl only between GPUs of different hosts.

    A server on the trainer's own host shares its devices by default, and NCCL refuses two ranks on
    one device. If the server has devices of its own, set server.weight_sync=nccl. A server that was started for other
    hosts, at this one's address, may wait for nccl: it reads files whatever it waits for.
    """
    if config.weight_sync != "auto":
        return config.weight_sync
    if not device.startswith("cuda") or any(is_loopback(host) for host in hosts):
        return "gloo"
    return "disk" if any(is_this_host(host) for host in hosts) else "nccl"


def served_backend(config: ServerConfig, device: str) -> str:
    """What a server at `config.host` is started to wait for: vLLM's name of it. Files it reads in any case."""
    if config.weight_sync != "auto":
        return {"disk": "gloo", "ipc": IPC_BACKEND}.get(config.weight_sync, config.weight_sync)
    return "nccl" if device.startswith("cuda") and not is_loopback(config.host) else "gloo"


def open_weight_sync(
    module: torch.nn.Module, client: RolloutService, config: ServerConfig, rank: int, device: torch.device | str
) -> WeightSync:
    """Connect trainer and servers; a collective over all ranks, of which rank 0 sends.

    Args:
        module: ZeRO-3-partitioned or plain, with the parameter names of its Hugging Face checkpoint.
        client: Of the servers; used on rank 0 alone.
        config: How weights are sent, and how long a phase may take.
        rank: This one's number.
        device: The trainer's.

    Raises:
        ServerError: On every rank, if rank 0 can't connect.
    """
    sync = WeightSync(WeightSource(module, is_sender=rank == 0), client, config, rank, torch.device(device))
    sync.connect()
    return sync


class WeightSync:
    """Made by `open_weight_sync`."""

    def __init__(
        self, source: WeightSource, client: RolloutService, config: ServerConfig, rank: int, device: torch.device
    ) -> None:
        self._source, self._client, self._config = source, client, config
        self._rank, self._device = rank, device
        self._sender: Sender | None = None
        self._phase = "connect"
        self._sent = SentWeights()

    def connect(self) -> None:
        failure = None
        if self._rank == 0:
            try:
                self._sender = self._make_sender()
                self._drop_failed(self._sender.connect(self._client.servers()))
            except Exception as error:  # raised on all ranks
                failure = error
        self._raise_together(failure, "")
        self._note_what_is_held()

    def _note_what_is_held(self) -> None:
        """Where servers hold the trainer's present weights, as at a run's start, this shows what can be compared."""
        for _ in self._sent.watched(self._source.stream()):
            pass
        failure = None
        if self._rank == 0:
            try:
                self._everywhere("checksums", self._sent.compare)
            except Exception as error:  # raised on all ranks
                failure = error
        self._raise_together(failure, "")

    def _make_sender(self) -> Sender:
        hosts = [urlsplit(server.url).hostname or "" for server in self._client.servers()]
        backend = choose_backend(self._config, self._device.type, hosts)
        bucket_bytes = (self._config.sync_bucket_mib or BUCKET_MIB[backend]) << 20
        timeout_s = self._config.sync_timeout_s
        if backend == "nccl":
            return NcclSender(self._source, bucket_bytes, timeout_s)
        metas = self._source.metas()
        if backend == "disk":
            return DiskSender(metas, bucket_bytes, timeout_s, self._config.sync_folder)
        if backend == "ipc":
            return IpcSender(metas, bucket_bytes, timeout_s, self._device)
        return GlooSender(metas, bucket_bytes, timeout_s)

    def push(self, version: int) -> None:
        """Serve the module's present weights as `version`; a collective over all ranks.

        Raises ServerError on every rank, rank 0's naming rank, host, phase and URL, if a phase fails at every server
        or exceeds `server.sync_timeout_s` there. A server that failed stays paused: it may hold half an update.
        """
        stream = self._sent.watched(self._source.stream())
        failure = None
        if self._rank == 0:
            try:
                self._serve(stream, version)
            except Exception as error:  # raised on all ranks
                failure = error
        for _ in stream:  # the others', or the rest after a failure: every gather is a collective
            pass
        self._raise_together(failure, f" of version {version}")

    def _serve(self, stream: Any, version: int) -> None:
        assert self._sender is not None, "closed"
        timeout_s = self._config.sync_timeout_s
        back = self._readmit()
        self._everywhere("health", lambda server: server.request("GET", "/health", timeout_s=HEALTH_S))
        self._everywhere("pause", lambda server: server.pause(timeout_s), back)
        self._everywhere("start", lambda server: server.set_policy_version(HALF_UPDATED, timeout_s), back)
        self._phase = "transfer"
        self._drop_failed(self._sender.send(stream, [*self._client.servers(), *back], version), back)
        self._everywhere("reset of the prefix cache", lambda server: server.reset_prefix_cache(timeout_s), back)
        self._everywhere("resume", lambda server: server.resume(timeout_s), back)
        self._everywhere("verify", lambda server: self._check(server, version), back)
        for server in back:
            self._client.readmit(server)

    def _check(self, server: RolloutClient, version: int) -> None:
        held = server.held_version()
        if held != version:
            raise StaleWeightsError(f"the server at {server.url} holds policy version {held} after a sync of {version}")
        self._sent.check(server)

    def _readmit(self) -> list[RolloutClient]:
        """Servers that were lost and answer again, connected again."""
        assert self._sender is not None
        back = self._client.returning()
        failures = self._sender.connect(back) if back else {}
        for server, error in failures.items():
            log.warning("the rollout server at %s answers again, but takes no weights: %s", server.url, error)
        return [server for server in back if server not in failures]

    def _everywhere(
        self, phase: str, call: Callable[[RolloutClient], Any], back: list[RolloutClient] | None = None
    ) -> None:
        """One phase at every server in use, and at those that come back, at the same time."""
        self._phase = phase
        _, failures = all_at_once(call, [*self._client.servers(), *(back or [])], self._config.sync_timeout_s + 1)
        self._drop_failed(dict(failures), back)

    def _drop_failed(self, failures: Failures, back: list[RolloutClient] | None = None) -> None:
        """Drop the servers that failed; raises if none is left."""
        for server, error in failures.items():
            if back and server in back:
                back.remove(server)
            else:
                log.warning("weight sync: %s failed in phase %r", server.url, self._phase)
                self._client.drop(server, error)

    def _raise_together(self, failure: Exception | None, what: str) -> None:
        """Raise on all ranks if rank 0 failed, so that no rank waits for it."""
        failed = torch.tensor([int(failure is not None)], device=self._device)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.broadcast(failed, src=0)
        if failure is not None:
            raise ServerError(
                f"weight sync{what}: rank 0 on {socket.gethostname()} failed in phase {self._phase!r}: {failure}; "
                f"the server at {self._client.url} can't be used any more: restart it and resume the run"
            ) from failure
        if failed.item():
            raise ServerError(f"weight sync{what}: rank {self._rank} on {socket.gethostname()} ends, for rank 0 failed")

    def close(self) -> None:
        """Close the connections without a request to the servers, which may have ended."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None


def load_folder(
    client: RolloutService,
    folder: str | Path,
    version: int,
    timeout_s: float = 300.0,
    weights_hash: str | None = None,
) -> None:
    """Serve a checkpoint.

    Args:
        client: Of the servers, which must see the folder.
        folder: A Hugging Face checkpoint.
        version: Policy version that it becomes.
        timeout_s: Seconds until it must be served.
        weights_hash: Of the folder, if servers may have other files there.

    Raises:
        StaleWeightsError: A server then holds weights of another hash.
    """
    folder = Path(folder)
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} holds no *.safetensors: give an exported model's folder")

    def load(server: RolloutClient) -> None:
        server.pause(timeout_s)
        server.set_policy_version(HALF_UPDATED, timeout_s)
        load_weights_folder(server, folder, timeout_s)
        server.set_policy_version(version, timeout_s)
        server.reset_prefix_cache(timeout_s)
        server.resume(timeout_s)

    _, failures = all_at_once(load, client.servers(), 6 * timeout_s)
    for server, error in failures:
        client.drop(server, error)
    if weights_hash is not None:
        for server, held in _others(client, weights_hash).items():
            raise _holds_other(server, held, folder, "and loading these left other ones there")


def serve_base(client: RolloutService, folder: Path, weights_hash: str) -> None:
    """Make sure that all servers hold the weights in `folder` as policy version 0: by their hash, else by loading them.

    A server may have been started on another model, or hold what another run has loaded: that it reports version 0
    proves nothing. StaleWeightsError naming the server and what it holds, if it can't load them; one of another
    architecture isn't touched.
    """
    others = _others(client, weights_hash)
    if client.policy_version() == 0 and not others:
        return
    config = read_json(folder / "config.json")
    for server, held in others.items():
        unlike = [key for key, value in held.shape.items() if config.get(key, value) != value]
        if unlike:
            raise _holds_other(server, held, folder, f"its {unlike[0]} is {held.shape[unlike[0]]}")
    load_folder(client, folder, 0, weights_hash=weights_hash)


def _others(client: RolloutService, weights_hash: str) -> dict[RolloutClient, HeldWeights]:
    """The servers that hold other weights, or can't say."""
    held = {server: server.held_weights() for server in client.servers()}
    return {server: weights for server, weights in held.items() if weights.hash != weights_hash}


def _holds_other(server: RolloutClient, held: HeldWeights, folder: Path, why: str) -> StaleWeightsError:
    return StaleWeightsError(
        f"the server at {server.url} holds the weights of {held.source}, not those of model.path, {folder} ({why}): "
        "start it on that model"
    )
