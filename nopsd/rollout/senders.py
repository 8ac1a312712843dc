"""Ways for the sender (rank 0) to bring weights to paused servers, all with one interface.

gloo: buckets broadcast through the plug-in's engine (gloo_sender.py). ipc: buckets in memory that both see
(ipc_sender.py). disk: shards in a folder that the servers read.
nccl: vLLM's own engine, for servers on GPUs that the trainer doesn't share. Each takes the weights from an iterator,
which may raise and may be left half used, and says which servers failed to take them; the rest are served. Times out
by `timeout_s` in each step.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import torch

from nopsd.engine.store import open_store
from nopsd.errors import ServerError
from nopsd.network import address_towards
from nopsd.rollout.background import Background, all_at_once
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.transport import nbytes
from nopsd.rollout.weight_source import WeightMeta, WeightSource

Stream = Iterator[tuple[str, "torch.Tensor | None"]]
Failures = dict[RolloutClient, Exception]


class Sender(Protocol):
    """Brings one version of the weights to servers, which take the version's number."""

    def connect(self, clients: Sequence[RolloutClient]) -> Failures: ...

    def send(self, stream: Stream, clients: Sequence[RolloutClient], version: int) -> Failures: ...

    def close(self) -> None: ...


class DiskSender:
    """Writes shards of about `bucket_bytes`, once, and has every server read them: they must see our files.

    The folder is in `parent`, or, without one, in memory (/dev/shm) where there is room, else in the temporary
    directory: servers of another host need one that is shared.
    """

    def __init__(
        self, metas: Sequence[WeightMeta], bucket_bytes: int, timeout_s: float, parent: str | None = None
    ) -> None:
        self._cap, self._timeout_s, self._given = bucket_bytes, timeout_s, parent
        self._total = sum(nbytes(m.dtype_name, m.shape) for m in metas)

    def connect(self, clients: Sequence[RolloutClient]) -> Failures:
        return {}

    def send(self, stream: Stream, clients: Sequence[RolloutClient], version: int) -> Failures:
        def load(client: RolloutClient) -> None:
            load_weights_folder(client, folder, self._timeout_s)
            client.set_policy_version(version, self._timeout_s)

        folder = Path(tempfile.mkdtemp(prefix="nopsd-weights-", dir=self._parent()))
        try:
            self._write(stream, folder)
            _, failures = all_at_once(load, clients, 2 * self._timeout_s)
        finally:
            shutil.rmtree(folder)
        return dict(failures)

    def _parent(self) -> str | None:
        if self._given is not None:
            return self._given
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
    """vLLM's own NCCL engine (GPU): one group of the trainer and every server's workers.

    NCCL refuses two ranks on one device: the trainer needs its own. A server that dies breaks the group for all.
    """

    def __init__(self, source: WeightSource, bucket_bytes: int, timeout_s: float) -> None:
        self._source, self._bucket_bytes, self._timeout_s = source, bucket_bytes, timeout_s
        self._clients: list[RolloutClient] = []
        self._stream: Stream = iter(())
        self._engine: Any = None

    def connect(self, clients: Sequence[RolloutClient]) -> Failures:
        from vllm.distributed.weight_transfer.base import ParamMeta
        from vllm.distributed.weight_transfer.base import WeightSource as VllmSource
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        if self._engine is not None:
            reason = ServerError("an NCCL group can't be joined later: it is used again by the next command")
            return dict.fromkeys(clients, reason)
        sender, source = self, self._source

        class Source(VllmSource):  # type: ignore[misc]
            def metadata(self) -> list[ParamMeta]:
                return [ParamMeta(m.name, getattr(torch, m.dtype_name), m.shape) for m in source.metas()]

            def __iter__(self) -> Stream:
                return sender._stream

        self._clients = list(clients)
        self._workers = [client.world_size() for client in clients]
        address = address_towards(urlsplit(clients[0].url).hostname or "127.0.0.1")
        store = open_store(address, self._timeout_s)
        port = store.port
        del store  # only its free port was wanted: NCCL's engine opens its own
        info = NCCLTrainerInitInfo(
            master_address=address,
            master_port=port,
            world_size=1 + sum(self._workers),
            rank=0,
            packed_buffer_size_bytes=self._bucket_bytes,
        )
        device = torch.cuda.current_device() if torch.cuda.is_available() else None

        def rendezvous() -> Any:
            if device is not None:
                torch.cuda.set_device(device)  # a thread has its own
            return WeightTransferTrainerFactory.trainer_init(info, client=self, source=Source())

        try:
            self._engine = Background(rendezvous).result(self._timeout_s)
        except ServerError as error:
            raise ServerError(f"NCCL's rendezvous with {self._urls()}: {error}") from error
        return {}

    def send(self, stream: Stream, clients: Sequence[RolloutClient], version: int) -> Failures:
        if missing := [client.url for client in self._clients if client not in clients]:
            raise ServerError(f"the NCCL group can't go on without {', '.join(missing)}: resume the run without it")
        self._stream = stream
        with self._deadline():
            self._engine.send_weights()
        self._everywhere(lambda client: client.set_policy_version(version, self._timeout_s))
        return {}

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        """Abort the group after `timeout_s`: a broadcast that a server never joins would else wait for ever."""
        passed = threading.Event()

        def abort() -> None:
            passed.set()
            self._engine.shutdown()

        timer = threading.Timer(self._timeout_s, abort)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Exception as error:
            if not passed.is_set():
                raise
            raise self._late() from error
        finally:
            timer.cancel()
        if passed.is_set():
            raise self._late()

    def _late(self) -> ServerError:
        return ServerError(f"NCCL's broadcast to {self._urls()} had no end within {self._timeout_s:g} s")

    def _urls(self) -> str:
        return ", ".join(client.url for client in self._clients)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.shutdown()

    def _everywhere(self, call: Any) -> None:
        _, failures = all_at_once(call, self._clients, self._timeout_s)
        if failures:
            raise failures[0][1]

    def _post(self, path: str, body: dict[str, Any] | None = None) -> None:
        self._everywhere(lambda client: client.request("POST", path, body, self._timeout_s))

    # What vLLM's engine asks of a control-plane client.
    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        offsets = {c: 1 + sum(self._workers[:i]) for i, c in enumerate(self._clients)}

        def init(client: RolloutClient) -> None:
            body = {"init_info": {**init_info, "rank_offset": offsets[client]}}
            client.request("POST", "/init_weight_transfer_engine", body, self._timeout_s)

        self._everywhere(init)

    def start_weight_update(self) -> None:
        self._post("/start_weight_update")

    def update_weights(self, update_info: Any) -> None:
        self._post("/update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._post("/finish_weight_update", {"weight_version": weight_version} if weight_version is not None else None)


def load_weights_folder(client: RolloutClient, folder: Path, timeout_s: float) -> None:
    """Have the server's workers read a checkpoint folder; pausing is the caller's."""
    body = {"method": "nopsd_load_folder", "args": [str(Path(folder).resolve())]}
    client.request("POST", "/collective_rpc", body, timeout_s)
