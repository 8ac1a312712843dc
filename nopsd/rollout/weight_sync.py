"""Keeps the rollout server's weights equal to the trainer's, version by version (SPEC Alg. 1, F16).

`open_weight_sync(...)` on all ranks, then `.push(version)` after each optimizer step: pause, transfer,
reset the prefix cache, resume. `load_folder` serves a checkpoint from disk. `verify_served` compares
served with trained log-probs, the proof that a sync took.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import torch
import torch.distributed as dist

from nopsd.config import ServerConfig
from nopsd.errors import ServerError, StaleWeightsError, UserError
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.senders import DiskSender, GlooSender, NcclSender, Sender, load_weights_folder
from nopsd.rollout.weight_source import WeightSource


def choose_backend(config: ServerConfig, device: str, host: str) -> str:
    """gloo|nccl|disk. `auto` is nccl only between GPUs of different hosts.

    A server on the trainer's own host shares its devices by default, and NCCL refuses two ranks on
    one device. With devices of its own, ask for server.weight_sync=nccl.
    """
    if config.weight_sync != "auto":
        return config.weight_sync
    return "nccl" if device.startswith("cuda") and not _is_loopback(host) else "gloo"


def open_weight_sync(
    module: torch.nn.Module, client: RolloutClient, config: ServerConfig, rank: int, device: torch.device | str
) -> WeightSync:
    """Connect trainer and server; a collective over all ranks, of which rank 0 sends.

    `module`: ZeRO-3-partitioned or plain, with the parameter names of its Hugging Face checkpoint.
    `device`: the trainer's. Raises ServerError on every rank if rank 0 can't connect.
    """
    sync = WeightSync(WeightSource(module, is_sender=rank == 0), client, config, rank, torch.device(device))
    sync.connect()
    return sync


class WeightSync:
    """Made by `open_weight_sync`."""

    def __init__(
        self, source: WeightSource, client: RolloutClient, config: ServerConfig, rank: int, device: torch.device
    ) -> None:
        self._source, self._client, self._config = source, client, config
        self._rank, self._device = rank, device
        self._sender: Sender | None = None
        self._phase = "connect"

    def connect(self) -> None:
        failure = None
        if self._rank == 0:
            try:
                self._sender = self._make_sender()
            except Exception as error:  # told to all ranks, then raised
                failure = error
        self._raise_together(failure, "")

    def _make_sender(self) -> Sender:
        host = urlsplit(self._client.url).hostname or ""
        backend = choose_backend(self._config, self._device.type, host)
        bucket_bytes, timeout_s = self._config.sync_bucket_mib << 20, self._config.sync_timeout_s
        if backend == "nccl":
            return NcclSender(self._client, self._source, bucket_bytes, timeout_s)
        kind = GlooSender if backend == "gloo" else DiskSender
        return kind(self._client, self._source.metas(), bucket_bytes, timeout_s)

    def push(self, version: int) -> None:
        """Serve the module's present weights as `version`; a collective over all ranks.

        Raises ServerError on every rank, rank 0's naming rank, host and phase, if a phase fails or
        exceeds `server.sync_timeout_s`. The server then stays paused: it may hold half an update.
        """
        stream = self._source.stream()
        failure = None
        if self._rank == 0:
            try:
                self._serve(stream, version)
            except Exception as error:  # told to all ranks, then raised
                failure = error
        for _ in stream:  # the others', or the rest after a failure: every gather is a collective
            pass
        self._raise_together(failure, f" of version {version}")

    def _serve(self, stream: object, version: int) -> None:
        assert self._sender is not None, "closed"
        timeout_s = self._config.sync_timeout_s
        self._phase = "pause"
        self._client.pause(timeout_s)
        self._phase = "transfer"
        self._sender.send(stream, version)  # type: ignore[arg-type]
        self._phase = "reset of the prefix cache"
        self._client.reset_prefix_cache(timeout_s)
        self._phase = "resume"
        self._client.resume(timeout_s)

    def _raise_together(self, failure: Exception | None, what: str) -> None:
        """Raise on all ranks if rank 0 failed, so that none waits for it in vain."""
        failed = torch.tensor([int(failure is not None)], device=self._device)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.broadcast(failed, src=0)
        if failure is not None:
            raise ServerError(
                f"weight sync{what}: rank 0 on {socket.gethostname()} failed in phase {self._phase!r}: {failure}; "
                f"the server at {self._client.url} can't be used further: restart it and resume the run"
            ) from failure
        if failed.item():
            raise ServerError(f"weight sync{what}: rank {self._rank} on {socket.gethostname()} ends, for rank 0 failed")

    def close(self) -> None:
        """Let go of the connection; the server isn't told, it may have ended."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None


def load_folder(client: RolloutClient, folder: str | Path, version: int, timeout_s: float = 300.0) -> None:
    """Serve the checkpoint in `folder` (which the server must see) as policy `version`."""
    folder = Path(folder)
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} holds no *.safetensors: give an exported model's folder")
    client.pause(timeout_s)
    load_weights_folder(client, folder, timeout_s)
    client.set_policy_version(version)
    client.reset_prefix_cache(timeout_s)
    client.resume(timeout_s)


def verify_served(
    client: RolloutClient, prompts: Sequence[list[int]], responses: Sequence[list[int]],
    trainer_logprobs: Sequence[Sequence[float]], tolerance: float,
) -> float:
    """Largest difference between served and trained log-probs of the response ids (nats).

    Responses are cut to what fits the server's window less one position. Raises StaleWeightsError
    if it exceeds `tolerance` (or isn't a number).
    """
    room = client.max_model_len() - 1
    cut = [list(r[: max(0, room - len(p))]) for p, r in zip(prompts, responses, strict=True)]
    served = client.score(prompts, cut)
    deltas = [
        abs(s - t) for row, trained in zip(served, trainer_logprobs, strict=True) for s, t in zip(row, trained)
    ]
    worst = max(deltas, key=lambda d: float("inf") if d != d else d, default=0.0)
    if not worst <= tolerance:
        raise StaleWeightsError(
            f"served and trained log-probs differ by up to {worst:.3g} (tolerance {tolerance:g}) over {len(deltas)} "
            f"tokens at {client.url}: the server doesn't hold the trainer's weights, or another dtype"
        )
    return worst


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # another host's name
        return False
