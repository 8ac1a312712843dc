"""Process groups and tensor collectives: one small object that every distributed stage is given.

In: `DistConfig`, and RANK/WORLD_SIZE/LOCAL_RANK where the `deepspeed` launcher set them.
Out: `Ranks`. Without a launcher it is a world of one process. gloo on CPU, nccl on GPU. Structured values are
sent as JSON bytes in uint8 tensors, never as pickles, so that no code runs from another host's bytes.
Every method but `is_main` is collective: all ranks must call it, in the same order.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from nopsd.config import DistConfig
from nopsd.engine.store import init_method
from nopsd.errors import UserError
from nopsd.network import LOOPBACK, free_port

STORE_WAIT_S = 60.0
# Numbers the calls of `_wait_for_rank0`, which all ranks make in the same order.
_waits = itertools.count()


@dataclass(frozen=True)
class Ranks:
    """This process among all: its number, how many there are, and the device it computes on."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()

    def all_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Element-wise sum over ranks; same shape and device as `tensor`, which stays as it is."""
        return self._all_reduce(tensor, dist.ReduceOp.SUM)

    def all_max(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._all_reduce(tensor, dist.ReduceOp.MAX)

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """All ranks' tensors, by rank, on every rank. Shapes must be equal."""
        if self.world == 1:
            return [tensor.clone()]
        sent = tensor.contiguous().to(self.device)
        received = [torch.empty_like(sent) for _ in range(self.world)]
        dist.all_gather(received, sent)
        return [part.to(tensor.device) for part in received]

    def all_gather_ragged(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """All ranks' tensors, by rank, where the first dimension may differ (also be 0)."""
        if self.world == 1:
            return [tensor.clone()]
        lengths = [int(n) for n in self.gather(torch.tensor([tensor.shape[0]]))]
        padded = tensor.new_zeros((max(lengths), *tensor.shape[1:]))
        padded[: tensor.shape[0]] = tensor
        return [part[:length] for part, length in zip(self.gather(padded), lengths)]

    def broadcast_json(self, value: Any) -> Any:
        """Rank 0's JSON value on every rank (others' `value` is ignored)."""
        if self.world == 1:
            return json.loads(json.dumps(value))
        text = bytearray(json.dumps(value, sort_keys=True).encode()) if self.is_main else bytearray()
        size = torch.tensor([len(text)], device=self.device)
        dist.broadcast(size, src=0)
        buffer = torch.frombuffer(text or bytearray(int(size)), dtype=torch.uint8).to(self.device)
        dist.broadcast(buffer, src=0)
        return json.loads(buffer.cpu().numpy().tobytes())

    def all_gather_json(self, value: Any) -> list[Any]:
        """All ranks' JSON values, by rank, on every rank."""
        own = torch.frombuffer(bytearray(json.dumps(value, sort_keys=True).encode()), dtype=torch.uint8)
        return [json.loads(part.cpu().numpy().tobytes()) for part in self.all_gather_ragged(own)]

    def check_equal(self, value: str, what: str) -> None:
        """Raise on every rank unless all hold the same string (a content hash, say)."""
        values = self.all_gather_json(value)
        if len(set(values)) > 1:
            raise RuntimeError(f"ranks disagree on {what}: " + ", ".join(f"{r}: {v}" for r, v in enumerate(values)))

    def _all_reduce(self, tensor: torch.Tensor, op: Any) -> torch.Tensor:
        reduced = tensor.contiguous().to(self.device).clone()
        if self.world > 1:
            dist.all_reduce(reduced, op=op)
        return reduced.to(tensor.device)


def broadcast_from_rank0(ranks: Ranks, call: Callable[[], Any]) -> Any:
    """`call()` of rank 0 (a JSON value) on every rank; its failure is raised on every rank. Collective.

    Without this the other ranks would wait in a collective for a rank 0 that failed long ago. While rank 0 works, which
    may take hours, the others wait on the process group's store and not in a collective, whose timeout (dist.timeout_s)
    a slow rollout would exceed. The watchdog (nopsd.cluster.watchdog) checks that rank 0 is alive.
    """
    outcome: dict[str, Any] = {}
    failure: Exception | None = None
    if ranks.is_main:
        try:
            outcome = {"value": call()}
        except Exception as error:  # sent to all ranks, then raised
            failure = error
            outcome = {"error": f"{error}", "user": isinstance(error, UserError), "type": type(error).__name__}
    if ranks.world > 1:
        _wait_for_rank0(ranks)
    outcome = ranks.broadcast_json(outcome)
    if failure is not None:
        raise failure
    if "error" in outcome:
        if not outcome["user"]:
            raise RuntimeError(f"rank 0 failed: {outcome['type']}: {outcome['error']}")
        received = UserError(outcome["error"])
        received.of_rank = 0
        raise received
    return outcome["value"]


def _wait_for_rank0(ranks: Ranks) -> None:
    """Until rank 0 has called this too, however long that takes: no timeout, and no collective operation.

    RuntimeError if the store, which rank 0 serves, is gone.
    """
    store, key = dist.distributed_c10d._get_default_store(), f"nopsd/rank0/{next(_waits)}"
    if ranks.is_main:
        store.set(key, "done")
        return
    while True:
        try:
            store.wait([key], timedelta(seconds=STORE_WAIT_S))
            return
        except dist.DistStoreError:  # a timeout; a store that is gone raises DistNetworkError
            continue


def init_distributed(config: DistConfig) -> Ranks:
    """Join the launcher's process group, or be a group of one. Sets torch's threads and the group's timeout."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    on_gpu = get_accelerator().device_name() == "cuda"
    if not on_gpu:
        torch.set_num_threads(config.threads)
    if not dist.is_initialized():
        _fill_environment()
        # Only tensor-parallel inference uses this op, and it costs a minute of g++ at first use.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        _bind_device(on_gpu)
        deepspeed.init_distributed(
            dist_backend="nccl" if on_gpu else "gloo",
            auto_mpi_discovery=False,
            timeout=timedelta(seconds=config.timeout_s),
            init_method=init_method(),
            verbose=False,
        )
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def shutdown_distributed() -> None:
    """Leave the process group, so that the process ends without complaints."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _fill_environment() -> None:
    stated = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if name in os.environ]
    if len(stated) == 3:
        return
    if stated and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(f"only {', '.join(stated)} of RANK, WORLD_SIZE, LOCAL_RANK are set: start with `deepspeed`")
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR=LOOPBACK, MASTER_PORT=str(free_port()))


def _bind_device(on_gpu: bool) -> None:
    if not on_gpu:
        return
    local_rank, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local_rank >= count:
        raise UserError(f"rank {os.environ['RANK']} has no GPU: the host has {count}; lower dist.ranks to {count}")
    torch.cuda.set_device(local_rank)
    # An offloaded optimizer computes on the CPU, with this rank's share of the host's cores.
    cores, ranks = len(os.sched_getaffinity(0)), int(os.environ.get("LOCAL_SIZE") or count)
    torch.set_num_threads(max(torch.get_num_threads(), cores // ranks))
