"""Which GPUs a run fits on, by the memory estimate. Pure.

In: the config, `nopsd.cluster.doctor.memory.Needs`, a GPU's memory. Out: what is left of it, and how many tokens the
rollout server on it has room for. A server on the trainer's own GPUs has `server.gpu_memory_utilization` of each, with
`server.sleep` only while no step is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

from nopsd.cluster.doctor.memory import GIB, Needs
from nopsd.config import Config

# GiB that PyTorch may use of each (total_memory, rounded down), under the names that presets state.
GPUS = {
    "RTX4090-24GB": 23.5,
    "A100-40GB": 39.4,
    "L40S-48GB": 44.3,
    "A100-80GB": 79.1,
    "H100-80GB": 79.1,
    "H200-141GB": 139.7,
}
CONTEXT = 2 * GIB  # CUDA's and NCCL's own, and fragments; (chosen)
ASLEEP = 2 * GIB  # of a server that sleeps: CUDA's context, graphs, NCCL; (chosen)
SERVER_OWN = GIB  # beside weights, and keys and values: as `nopsd doctor` estimates


@dataclass(frozen=True)
class Room:
    """What a GPU has left beside a training rank, in bytes, and the server's room in tokens; None: it is elsewhere."""

    left: int
    tokens: int | None
    wanted: int  # tokens of one sequence, which the server must hold

    @property
    def fits(self) -> bool:
        return self.left >= 0 and (self.tokens is None or self.tokens >= self.wanted)


def shares_devices(config: Config) -> bool:
    """Whether the rollout server stands on the GPUs that train."""
    return not (config.server.url or config.rollout.urls or config.rollout.hosts)


def room_on(config: Config, needs: Needs, gib: float) -> Room:
    """What is left on a GPU beside `needs`, and the tokens that its server's cache takes.

    Args:
        config: Says whether ranks and servers share GPUs, and the servers' part of one.
        needs: Of a rank and of a server, in bytes.
        gib: Memory of a GPU.
    """
    whole = int(gib * GIB)
    served = int(config.server.gpu_memory_utilization * whole) if shares_devices(config) else 0
    left = whole - served - needs.total - CONTEXT
    if served and config.server.sleep:  # a step beside the sleeping server; and what rests beside it awake
        left = min(whole - ASLEEP - needs.total, whole - served - needs.resting) - CONTEXT
    if not served:
        return Room(left, None, config.server.max_model_len)
    cache = max(0, served - needs.server_weights - SERVER_OWN)
    return Room(left, cache // needs.kv_bytes_per_token, config.server.max_model_len)


def fitting(config: Config, needs: Needs) -> list[str]:
    """The GPUs of the list that hold a training rank and the server."""
    return [name for name, gib in GPUS.items() if room_on(config, needs, gib).fits]
