"""What vLLM's workers load (`--worker-extension-cls nopsd.rollout.vllm_plugin.WorkerExtension`).

1. Weight-transfer backends "gloo" and IPC_BACKEND for vLLM's own update protocol (/init_weight_transfer_engine,
   /start_weight_update, /update_weights, /finish_weight_update), for CPU and for devices shared
   with the trainer, where NCCL won't do.
2. After each reload, the CPU build's packed copies of embedding and head matrices are made again:
   vLLM 0.32 leaves a tied head's copy stale and serves old logits under new weights.
3. After each reload, the CPU build's packed copies of a mixture's experts are packed again: vLLM 0.32 packs them at
   the start alone and then reads rows of plain weights as packed ones.
4. Reloads and transfers that leave a parameter unset are errors, not log lines.
5. The CPU build's processes sleep soon after their last message.
6. The CPU build sorts what top-k keeps, not the vocabulary (`cpu_sampling`).
7. A server reports which folder's weights it read, with their hash, and checksums of what it holds.

Written for vLLM 0.32; everything that knows its inside is here and in `vllm_weights`. Without vLLM
the module imports and is empty of engines.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from nopsd.engine.store import join_store
from nopsd.models import hash_of
from nopsd.network import address_towards
from nopsd.rollout.cpu_sampling import sort_only_the_top
from nopsd.rollout.held import SHAPE
from nopsd.rollout.shared_buffer import IPC_BACKEND, opened
from nopsd.rollout.transport import finish, gloo_group, nbytes, places, plan_buckets, start_broadcast
from nopsd.rollout.vllm_weights import held_sums
from nopsd.rollout.weight_sums import dtype_name

BACKEND = "gloo"
BUSY_LOOP_S = 0.002  # shorter than a decoding step of the smallest model


def refresh_packed_heads(model: torch.nn.Module) -> int:
    """Pack again every embedding and head matrix that the CPU build keeps a packed copy of; how many."""
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    count = 0
    for layer in model.modules():
        method = getattr(layer, "quant_method", None)
        if isinstance(method, UnquantizedEmbeddingMethod) and hasattr(layer, "cpu_linear"):
            method.process_weights_after_loading(layer)
            count += 1
    return count


def pack_reloaded_experts() -> None:
    """Let the CPU build pack a mixture's experts after a reload too.

    `UnquantizedFusedMoEMethod._setup_kernel` does so only when it makes its kernel. On a GPU there is nothing to pack.
    """
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod

    setup = UnquantizedFusedMoEMethod._setup_kernel

    def setup_and_pack(self: Any, layer: torch.nn.Module, w13: torch.Tensor, w2: torch.Tensor) -> None:
        is_reload = self.moe_kernel is not None
        setup(self, layer, w13, w2)
        if is_reload:
            self.moe_kernel.fused_experts.process_weights_after_loading(layer)

    UnquantizedFusedMoEMethod._setup_kernel = setup_and_pack


def refuse_missing(expected: set[str], loaded: set[str], what: str) -> None:
    """RuntimeError if a parameter of the served model got no weights."""
    missing = sorted(expected - loaded)
    if missing:
        raise RuntimeError(f"{what} left {len(missing)} parameters of the served model unset: {missing[:4]}")


class WorkerExtension:
    """Mixed into vLLM's worker; reached by /collective_rpc."""

    model_runner: Any

    def nopsd_load_folder(self, folder: str) -> int:
        """Load a checkpoint folder in place; returns how many packed matrices were refreshed."""
        model = self.model_runner.get_model()
        loaded: set[str] = set()
        load = model.load_weights

        def recording(weights: Any) -> Any:
            names = load(weights)
            loaded.update(names)
            return names

        expected = {name for name, _ in model.named_parameters()}
        model.load_weights = recording
        try:
            self.model_runner.reload_weights(weights_path=folder)
        finally:
            del model.load_weights
        refuse_missing(expected, loaded, f"loading {folder}")
        self._nopsd_read = (folder, time.time())
        return refresh_packed_heads(model)

    def nopsd_held_weights(self) -> dict[str, Any]:
        """The fields of `HeldWeights`. No hash if the files have changed since they were read."""
        model = self.model_runner.model_config
        started = psutil.Process().create_time()
        source, read_at = getattr(self, "_nopsd_read", (model.model, started))
        folder = local_folder(source, model.revision)
        config = model.hf_config.to_dict()
        shape = {key: config[key] for key in SHAPE if key in config}
        held = {"source": source, "shape": shape, "dtype": dtype_name(model.dtype)}
        if folder is None or any(file.stat().st_mtime > read_at for file in folder.glob("*.safetensors")):
            return held
        return {**held, "hash": hash_of(folder)}

    def nopsd_weight_sums(self) -> list[list[Any]]:
        """The fields of a `WeightSum` each, of what this worker holds."""
        return [list(entry) for entry in held_sums(self.model_runner.get_model())]


def local_folder(source: str, revision: str | None) -> Path | None:
    """Where a model's files are: its folder, or the snapshot of a hub id in the cache; None if neither is there."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(source, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def shorten_polling() -> None:
    """Let vLLM's processes sleep once no message has come for BUSY_LOOP_S.

    They poll for a second otherwise, on a core that the CPU build takes from the training step beside it: 0.95 s of CPU
    time after each step's rollouts, 0.02 so.
    """
    from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

    wait = SpinCondition.wait

    def wait_briefly(self: Any, timeout_ms: int | None = None) -> None:
        self.busy_loop_s = BUSY_LOOP_S
        wait(self, timeout_ms)

    SpinCondition.wait = wait_briefly


if importlib.util.find_spec("vllm") is not None:
    from vllm.distributed.weight_transfer.base import (
        WeightTransferEngine,
        WeightTransferInitInfo,
        WeightTransferUpdateInfo,
    )
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
    from vllm.platforms import current_platform

    @dataclass
    class GlooInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
        """Where the trainer waits. `group`: a name that is new for each connection."""

        master_address: str
        master_port: int
        group: str
        world_size: int
        bucket_bytes: int
        timeout_s: float
        rank_offset: int = 1

    @dataclass
    class NamedUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
        """The parameters in the order in which they come."""

        names: list[str]
        dtype_names: list[str]
        shapes: list[list[int]]

    @dataclass
    class IpcInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
        """Where the trainer writes: a handle of `nopsd.rollout.shared_buffer`."""

        handle: dict[str, Any]

    class LayerwiseEngine(WeightTransferEngine[Any, NamedUpdateInfo]):  # type: ignore[misc]
        """Whole parameters, brought to their layers by vLLM's own loader; one that is left unset is an error."""

        update_info_cls = NamedUpdateInfo

        def start_weight_update(self) -> None:
            from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

            self._expected = {name for name, _ in self.model.named_parameters()}
            self._loaded: set[str] = set()
            initialize_layerwise_reload(self.model)

        def unpacked(
            self, buffer: torch.Tensor, bucket: Sequence[int], sizes: list[int], info: NamedUpdateInfo
        ) -> Iterator[tuple[str, torch.Tensor]]:
            """The parameters in a buffer, as views of it."""
            for i, start in zip(bucket, places([sizes[i] for i in bucket])[0], strict=True):
                part = buffer[start : start + sizes[i]].view(getattr(torch, info.dtype_names[i]))
                yield info.names[i], part.view(info.shapes[i])

        def finish_weight_update(self) -> None:
            from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

            finalize_layerwise_reload(self.model, self.model_config)
            refuse_missing(self._expected, self._loaded, "the weight transfer")
            refresh_packed_heads(self.model)

    class IpcWeightTransferEngine(LayerwiseEngine):
        """The receiving side of memory that both see: what is in it is copied on the device, then loaded."""

        init_info_cls = IpcInitInfo
        _buffer: torch.Tensor | None = None

        def init_transfer_engine(self, info: IpcInitInfo) -> None:
            self._buffer = opened(info.handle, self.device)

        def receive_weights(self, info: NamedUpdateInfo) -> None:
            if self._buffer is None:
                raise RuntimeError("call /init_weight_transfer_engine first")
            sizes = [nbytes(d, s) for d, s in zip(info.dtype_names, info.shapes, strict=True)]
            parts = self.unpacked(self._buffer, range(len(sizes)), sizes, info)
            # The loader keeps weights until their layers are whole, and the trainer writes the next ones meanwhile.
            self._loaded |= set(self.model.load_weights((name, part.clone()) for name, part in parts))
            if self._buffer.is_cuda:
                torch.cuda.synchronize(self._buffer.device)

        def shutdown(self) -> None:
            self._buffer = None

    class GlooWeightTransferEngine(LayerwiseEngine):
        """The receiving side: one broadcast a bucket, then vLLM's own loader."""

        init_info_cls = GlooInitInfo
        _group = None

        def init_transfer_engine(self, info: GlooInitInfo) -> None:
            parallel = self.parallel_config
            rank = parallel.data_parallel_index * parallel.world_size + parallel.rank + info.rank_offset
            store = join_store(info.master_address, info.master_port, info.timeout_s)
            own = address_towards(info.master_address)
            self._group = gloo_group(store, info.group, own, rank, info.world_size, info.timeout_s)
            self._bucket_bytes = info.bucket_bytes

        def receive_weights(self, info: NamedUpdateInfo) -> None:
            if self._group is None:
                raise RuntimeError("call /init_weight_transfer_engine first")
            sizes = [nbytes(d, s) for d, s in zip(info.dtype_names, info.shapes, strict=True)]
            weights = self._arriving(info, sizes)
            # One call for all of them: each walks over all of the model's modules first.
            self._loaded |= set(self.model.load_weights(weights))
            for _ in weights:  # what the loader left: the trainer sends it all the same
                pass

        def _arriving(self, info: NamedUpdateInfo, sizes: list[int]) -> Iterator[tuple[str, torch.Tensor]]:
            """The weights, as they come; the next bucket is under way while one is loaded."""
            buckets = plan_buckets(sizes, self._bucket_bytes)
            coming = [self._expect(bucket, sizes) for bucket in buckets[:1]]
            for number, bucket in enumerate(buckets):
                buffer, work = coming.pop()
                finish(work)
                if number + 1 < len(buckets):
                    coming.append(self._expect(buckets[number + 1], sizes))
                # Views of a buffer that isn't used again: the loader keeps them until their layers are whole.
                for name, part in self.unpacked(buffer, bucket, sizes, info):
                    yield name, part.to(self.device)

        def _expect(self, bucket: list[int], sizes: list[int]) -> tuple[torch.Tensor, Any]:
            buffer = torch.empty(places([sizes[i] for i in bucket])[1], dtype=torch.uint8)
            return buffer, start_broadcast(self._group, buffer)

        def shutdown(self) -> None:
            self._group = None

    for backend, engine in ((BACKEND, GlooWeightTransferEngine), (IPC_BACKEND, IpcWeightTransferEngine)):
        if backend not in WeightTransferEngineFactory._registry:
            WeightTransferEngineFactory.register_engine(backend, engine)

    if current_platform.is_cpu():
        shorten_polling()
        sort_only_the_top()
        pack_reloaded_experts()
