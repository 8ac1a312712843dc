"""Three ways for the sender (rank 0) to bring weights to a paused server; one class each.

gloo: buckets broadcast through the plug-in's engine. disk: shards in a folder that the server reads.
nccl: vLLM's own engine, for servers on GPUs that the trainer doesn't share. Each takes the weights
from an iterator, which may raise and may be left half used. Times out by `timeout_s` in each step.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import torch

from nopsd.errors import ServerError
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.transport import broadcast, gloo_group, local_address, nbytes, open_store, plan_buckets
from nopsd.rollout.weight_source import WeightMeta, WeightSource

Stream = Iterator[tuple[str, "torch.Tensor | None"]]


class Sender(Protocol):
    """Brings one version of the weights to the server, which takes the version's number."""

    def send(self, stream: Stream, version: int) -> None: ...

    def close(self) -> None: ...


class Background:
    """A call on a daemon thread: unlike a pool's, one that hangs doesn't keep the program from ending."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._error: BaseException | None = None
        self._value: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:  # raised again by whoever waits
            self._error = error

    def raise_if_failed(self) -> None:
        if not self._thread.is_alive() and self._error is not None:
            raise self._error

    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self, timeout_s: float) -> Any:
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise ServerError(f"no end within {timeout_s:g} s")
        self.raise_if_failed()
        return self._value


class GlooSender:
    """Buckets of at most `bucket_bytes` (or one parameter, if that is larger) are all that is held."""

    def __init__(
        self, client: RolloutClient, metas: Sequence[WeightMeta], bucket_bytes: int, timeout_s: float
    ) -> None:
        self._client, self._metas, self._timeout_s = client, list(metas), timeout_s
        self._sizes = [nbytes(m.dtype_name, m.shape) for m in self._metas]
        self._buckets = plan_buckets(self._sizes, bucket_bytes)
        self._connect(bucket_bytes)

    def _connect(self, bucket_bytes: int) -> None:
        world = 1 + self._client.world_size()
        address = local_address(urlsplit(self._client.url).hostname or "127.0.0.1")
        self._store = open_store(address, self._timeout_s)
        name = f"nopsd-{time.time_ns()}"
        info = {
            "master_address": address, "master_port": self._store.port, "group": name, "world_size": world,
            "bucket_bytes": bucket_bytes, "timeout_s": self._timeout_s,
        }
        joining = Background(lambda: gloo_group(self._store, name, address, 0, world, self._timeout_s))
        self._client.request("POST", "/init_weight_transfer_engine", {"init_info": info}, self._timeout_s)
        self._group = joining.result(self._timeout_s)

    def send(self, stream: Stream, version: int) -> None:
        client, timeout_s = self._client, self._timeout_s
        client.request("POST", "/start_weight_update", timeout_s=timeout_s)
        info = {
            "names": [m.name for m in self._metas], "dtype_names": [m.dtype_name for m in self._metas],
            "shapes": [list(m.shape) for m in self._metas],
        }
        receiving = Background(
            lambda: client.request("POST", "/update_weights", {"update_info": info}, timeout_s)
        )
        deadline = time.monotonic() + timeout_s
        for number, bucket in enumerate(self._buckets, 1):
            last = number == len(self._buckets)
            self._broadcast(self._packed(stream, bucket), receiving, deadline, last)
        receiving.result(max(0.0, deadline - time.monotonic()))
        client.request("POST", "/finish_weight_update", {"weight_version": str(version)}, timeout_s)

    def _packed(self, stream: Stream, bucket: list[int]) -> torch.Tensor:
        """The next parameters as one buffer of bytes, owned by us."""
        buffer = torch.empty(sum(self._sizes[i] for i in bucket), dtype=torch.uint8)
        for i, part in zip(bucket, buffer.split([self._sizes[i] for i in bucket]), strict=True):
            name, tensor = next(stream)
            if name != self._metas[i].name or tensor is None:
                raise RuntimeError(f"expected parameter {self._metas[i].name}, the module gave {name}")
            part.copy_(tensor.contiguous().view(-1).view(torch.uint8))
        return buffer

    def _broadcast(self, buffer: torch.Tensor, receiving: Background, deadline: float, last: bool) -> None:
        def watch() -> None:
            receiving.raise_if_failed()
            # The last bucket may be taken, and answered for, before our own side of its broadcast has returned.
            if receiving.done() and not last:
                raise ServerError("the server ended the update before the last weights were sent")
            if time.monotonic() > deadline:
                raise ServerError(f"the weights weren't taken within {self._timeout_s:g} s")

        broadcast(self._group, buffer, watch)

    def close(self) -> None:
        self._group = None
        self._store = None


class DiskSender:
    """Writes shards of about `bucket_bytes` and has the server read them: it must see our files.

    The folder is in memory (/dev/shm) where there is room, else in the temporary directory.
    """

    def __init__(
        self, client: RolloutClient, metas: Sequence[WeightMeta], bucket_bytes: int, timeout_s: float
    ) -> None:
        self._client, self._cap, self._timeout_s = client, bucket_bytes, timeout_s
        self._total = sum(nbytes(m.dtype_name, m.shape) for m in metas)

    def send(self, stream: Stream, version: int) -> None:
        folder = Path(tempfile.mkdtemp(prefix="nopsd-weights-", dir=self._parent()))
        try:
            self._write(stream, folder)
            load_weights_folder(self._client, folder, self._timeout_s)
            self._client.set_policy_version(version)
        finally:
            shutil.rmtree(folder)

    def _parent(self) -> str | None:
        shm = Path("/dev/shm")
        return str(shm) if shm.is_dir() and shutil.disk_usage(shm).free > 2 * self._total else None

    def _write(self, stream: Stream, folder: Path) -> None:
        shard: dict[str, torch.Tensor] = {}
        count = held = 0
        for name, tensor in stream:
            assert tensor is not None
            size = tensor.numel() * tensor.element_size()
            if shard and held + size > self._cap:
                count, held = self._save(shard, folder, count), 0
            shard[name] = tensor.to("cpu", copy=True).contiguous()
            held += size
        self._save(shard, folder, count)

    @staticmethod
    def _save(shard: dict[str, torch.Tensor], folder: Path, count: int) -> int:
        from safetensors.torch import save_file

        save_file(shard, folder / f"model-{count:05d}.safetensors", metadata={"format": "pt"})
        shard.clear()
        return count + 1

    def close(self) -> None:
        pass


class NcclSender:
    """vLLM's own NCCL engine (GPU). NCCL refuses two ranks on one device: the trainer needs its own."""

    def __init__(self, client: RolloutClient, source: WeightSource, bucket_bytes: int, timeout_s: float) -> None:
        from vllm.distributed.weight_transfer.base import ParamMeta
        from vllm.distributed.weight_transfer.base import WeightSource as VllmSource
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        sender = self
        self._client, self._timeout_s = client, timeout_s
        self._stream: Stream = iter(())

        class Source(VllmSource):
            def metadata(self) -> list[ParamMeta]:
                return [ParamMeta(m.name, getattr(torch, m.dtype_name), m.shape) for m in source.metas()]

            def __iter__(self) -> Stream:
                return sender._stream

        address = local_address(urlsplit(client.url).hostname or "127.0.0.1")
        store = open_store(address, timeout_s)
        port = store.port
        del store  # only its free port was wanted: NCCL's engine opens its own
        info = NCCLTrainerInitInfo(
            master_address=address, master_port=port, world_size=1 + client.world_size(), rank=0,
            packed_buffer_size_bytes=bucket_bytes,
        )
        self._engine = WeightTransferTrainerFactory.trainer_init(info, client=self, source=Source())

    def send(self, stream: Stream, version: int) -> None:
        self._stream = stream
        self._engine.send_weights()
        self._client.set_policy_version(version)

    def close(self) -> None:
        self._engine.shutdown()

    # What vLLM's engine asks of a control-plane client.
    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._client.request("POST", "/init_weight_transfer_engine", {"init_info": init_info}, self._timeout_s)

    def start_weight_update(self) -> None:
        self._client.request("POST", "/start_weight_update", timeout_s=self._timeout_s)

    def update_weights(self, update_info: Any) -> None:
        self._client.request("POST", "/update_weights", {"update_info": update_info}, self._timeout_s)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        body = {"weight_version": weight_version} if weight_version is not None else None
        self._client.request("POST", "/finish_weight_update", body, self._timeout_s)


def load_weights_folder(client: RolloutClient, folder: Path, timeout_s: float) -> None:
    """Have the server's workers read a checkpoint folder; pausing is the caller's."""
    body = {"method": "nopsd_load_folder", "args": [str(Path(folder).resolve())]}
    client.request("POST", "/collective_rpc", body, timeout_s)
