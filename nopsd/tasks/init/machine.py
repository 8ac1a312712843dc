"""Which model, and how large a run, fits this machine.

In: the GPUs and memory of this host, a model if the user named one. Out: a preset to start from, and settings of
`model`, `train`, `server`, `dist` with their reasons. Estimates are those of `nopsd doctor`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from nopsd.cluster import host_facts
from nopsd.cluster.doctor.fitting import room_on
from nopsd.cluster.doctor.known_models import SHAPES
from nopsd.cluster.doctor.memory import GIB, ModelShape, needs_of, shape_of
from nopsd.config import load_config
from nopsd.engine.ds_config import role_configs
from nopsd.models import LAB_MODEL

PAPER_SIZE = "paper/biology"  # its model is the paper's: larger ones that fit are named, not proposed
MICROS = (4, 2, 1)
SERVER_SHARES = (0.3, 0.35, 0.4, 0.45)  # of a GPU, for the rollout server
USABLE = 0.985  # of a GPU's memory, as PyTorch may take it


@dataclass(frozen=True)
class Machine:
    """GPUs (the memory of the smallest, in GiB) and the host's memory in bytes."""

    gpus: int
    gpu_gib: float
    gpu_name: str
    memory: int

    @property
    def named(self) -> str:
        """In words."""
        host = f"{self.memory / GIB:.0f} GiB of memory"
        return f"{self.gpus} x {self.gpu_name} ({self.gpu_gib:.0f} GiB), {host}" if self.gpus else f"no GPU, {host}"


@dataclass(frozen=True)
class Choice:
    """A preset and what is set on top of it; `folder`: of the model, if its tokenizer is here."""

    base: str
    model: str
    reason: str
    settings: dict[str, tuple[Any, str]] = field(default_factory=dict)  # key -> value, reason
    folder: Path | None = None

    @property
    def is_lab(self) -> bool:
        return self.base == "lab"


def this_machine() -> Machine:
    """As `nvidia-smi` and the operating system have it."""
    devices, memory = host_facts.devices(), psutil.virtual_memory().total
    if not devices:
        return Machine(0, 0.0, "", memory)
    least = min(devices, key=lambda device: device["total"])
    return Machine(len(devices), USABLE * least["total"] / GIB, str(least["name"]), memory)


def choose(machine: Machine, model: str | None) -> Choice:
    """The user's model, or the largest preset's up to the paper's size that fits; without a GPU the embedded one."""
    if model == "lab" or (model is None and not machine.gpus):
        return Choice(
            "lab", "lab", f"embedded, 1 M parameters: a trial of the whole way ({machine.named})", {}, LAB_MODEL
        )
    if model is not None:
        return _users_own(machine, model)
    fitting = [(preset, settings) for preset in SHAPES if (settings := _fit(machine, preset, SHAPES[preset]))]
    if not fitting:
        reason = f"embedded: no Qwen3 of a preset fits {machine.named}; --model names another, or rent larger GPUs"
        return Choice("lab", "lab", reason, {}, LAB_MODEL)
    order = list(SHAPES)
    preset, settings = [f for f in fitting if order.index(f[0]) <= order.index(PAPER_SIZE)][-1]
    larger = [load_config(name).model.path for name, _ in fitting if order.index(name) > order.index(preset)]
    fits = f"fits {machine.named}" + (f"; so would {', '.join(larger)}" if larger else "")
    name = load_config(preset).model.path
    return Choice(preset, name, fits, settings, local_folder(name))


def _users_own(machine: Machine, model: str) -> Choice:
    preset = next((name for name in SHAPES if load_config(name).model.path == model), PAPER_SIZE)
    folder = local_folder(model)
    known = SHAPES[preset] if load_config(preset).model.path == model else None
    shape = shape_of(str(folder)) if folder is not None and (folder / "config.json").is_file() else known
    if not machine.gpus:
        return Choice(preset, model, _on_cpu(machine, shape), _cpu_settings(), folder)
    if shape is None:
        reason = "yours; its config.json isn't here, so its memory can't be estimated (nopsd doctor, once it is)"
        return Choice(preset, model, reason, _gpu_settings(machine, preset, 1, 0.4), folder)
    settings = _fit(machine, preset, shape)
    fits = "fits" if settings else "does NOT fit, by the estimate,"
    return Choice(
        preset, model, f"yours: {fits} {machine.named}", settings or _gpu_settings(machine, preset, 1, 0.4), folder
    )


def _on_cpu(machine: Machine, shape: ModelShape | None) -> str:
    if shape is None:
        return f"yours; {machine.named}: on a CPU a step of such a model takes minutes to hours"
    states = 4 * shape.parameters * 6 / GIB  # weights of student, teacher and server, gradients, two moments
    return f"yours: about {states:.0f} GiB in float32 and activations, of {machine.named}; slow on a CPU"


def _cpu_settings() -> dict[str, tuple[Any, str]]:
    return {
        "model.dtype": ("auto", "bfloat16 where the CPU multiplies in it, else float32"),
        "train.micro": (1, "the least memory"),
        "neuron.scale_with_width": (True, "by the paper's ratios to the model's width"),
        "server.kv_cache_mib": (2048, "of vLLM's CPU build"),
        "rollout.servers_per_host": (1, "one server"),
        "dist.ranks": (1, "this host's processes"),
    }


def _fit(machine: Machine, preset: str, shape: ModelShape) -> dict[str, tuple[Any, str]]:
    """Settings with which it fits the machine's GPUs and host; empty if none do."""
    for micro in MICROS:
        for share in SERVER_SHARES:
            settings = _gpu_settings(machine, preset, micro, share)
            config = load_config(preset, [f"{key}={value}" for key, (value, _) in settings.items()])
            needs = needs_of(config, shape, machine.gpus, *role_configs(config, "gpu"))
            room = room_on(config, needs, machine.gpu_gib)
            enough = room.fits and (room.tokens or 0) >= 2 * config.server.max_model_len
            if enough and machine.gpus * sum(needs.host.values()) < machine.memory:
                return settings
    return {}


def _gpu_settings(machine: Machine, preset: str, micro: int, share: float) -> dict[str, tuple[Any, str]]:
    split = min(load_config(preset).server.tensor_parallel, machine.gpus)
    return {
        "train.micro": (micro, "sequences of a rank at a time; results don't depend on it"),
        "server.gpu_memory_utilization": (share, "of each GPU; the rest is the trainer's"),
        "server.tensor_parallel": (split, "GPUs of a rollout server"),
        "rollout.servers_per_host": (max(1, machine.gpus // split), "rollout servers"),
        "dist.ranks": (machine.gpus, "training processes, one a GPU"),
    }


def local_folder(model: str) -> Path | None:
    """The folder of a model that is here, on disk or in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve()
    if model.count("/") != 1 or path.is_absolute():
        return None
    cached = try_to_load_from_cache(model, "tokenizer_config.json")
    return Path(cached).parent if isinstance(cached, str) else None
