"""What `nopsd doctor` checks beyond every launch's checks: clocks, ports, disk, model, devices, memory. Pure.

In: facts by host (`nopsd.cluster.host_facts`), the first host being the head. Out: `Finding`s.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping

from nopsd.cluster.doctor.fitting import ASLEEP
from nopsd.cluster.doctor.memory import GIB, MIB
from nopsd.cluster.findings import ERROR, WARNING, Facts, Finding, all_ok

CLOCK_S = 5.0  # file times and timeouts of one host are read on another


def clocks(facts: Facts, asked_at: Mapping[str, float]) -> list[Finding]:
    """No clock more than CLOCK_S off. `asked_at`: the head's time when each host was asked (mid-way of the request)."""
    off = {host: own["clock"] - asked_at[host] for host, own in facts.items()}
    middle = statistics.median(off.values())
    found = [
        Finding("clock", host, ERROR, f"is {value - middle:+.1f} s off the others: start chrony or ntpd there")
        for host, value in off.items()
        if abs(value - middle) > CLOCK_S
    ]
    return all_ok("clock", found, f"within {CLOCK_S:g} s")


def ports(facts: Facts) -> list[Finding]:
    """No port that the run needs is in use."""
    found = [
        Finding("ports", host, ERROR, f"port {port} is in use: stop what listens there, or choose another port")
        for host, own in facts.items()
        for port in own["ports_in_use"]
    ]
    return all_ok("ports", found, "free")


def disk(facts: Facts, needed: int) -> list[Finding]:
    """Room for checkpoints and exports, which take `needed` bytes."""
    found = []
    for host, own in facts.items():
        free = own["folders"]["run_dir"]["free"]
        if free < needed:
            message = f"{free / GIB:.1f} GiB free for run_dir, checkpoints need {needed / GIB:.1f}: free some"
            found.append(Finding("disk", host, ERROR, f"{message}, or lower train.keep_checkpoints"))
    return all_ok("disk", found, f"{needed / GIB:.1f} GiB needed")


def model(facts: Facts) -> list[Finding]:
    """The model and its tokenizer are there, and equal by hash."""
    head, *_ = facts.values()
    found = []
    for host, own in facts.items():
        if own["model"] is None:
            message = "the model folder isn't there: copy it, or put it on the shared disk"
            found.append(Finding("model", host, ERROR, message))
        elif own["model"] != head["model"]:
            message = f"other weights or tokenizer (hash {own['model']}, on the head {head['model']}): copy the head's"
            found.append(Finding("model", host, ERROR, message))
    return all_ok("model", found, f"hash {head['model']}")


def devices(facts: Facts, slots: Mapping[str, int], on_gpu: bool) -> list[Finding]:
    """A device, or a core, for each rank. `slots`: ranks that the hostfile puts on each host."""
    if not on_gpu:
        found = [
            Finding("devices", host, WARNING, f"{slots[host]} ranks on {own['cpus']} cores: they will share them")
            for host, own in facts.items()
            if slots.get(host, 0) > own["cpus"]
        ]
        return all_ok("devices", found, "CPU")
    found = []
    kinds = Counter(device["name"] for own in facts.values() for device in own["devices"])
    for host, own in facts.items():
        if len(own["devices"]) < slots.get(host, 0):
            message = f"{len(own['devices'])} GPUs, the hostfile has {slots[host]} slots: lower them"
            found.append(Finding("devices", host, ERROR, message))
        found += [
            Finding("devices", host, WARNING, f"GPU {i} has {d['free'] / GIB:.0f} of {d['total'] / GIB:.0f} GiB free")
            for i, d in enumerate(own["devices"])
            if d["total"] and d["free"] < 0.9 * d["total"]
        ]
        if any(d["total"] is None for d in own["devices"]):
            message = "nvidia-smi doesn't say how much memory a GPU has: whether the run fits isn't checked"
            found.append(Finding("devices", host, WARNING, message))
    return all_ok("devices", found, ", ".join(f"{count} x {name}" for name, count in kinds.items()))


def memory(
    facts: Facts,
    slots: Mapping[str, int],
    device_needs: int,
    host_needs: int,
    on_gpu: bool,
    served: float = 0.0,
    resting: int | None = None,
) -> list[Finding]:
    """Room for each rank.

    Args:
        device_needs: bytes of one rank on its device, estimated by `nopsd.cluster.doctor.memory`.
        host_needs: bytes of one rank in its host's memory.
        served: share of a GPU that a rollout server on it takes (`server.gpu_memory_utilization`); 0: it is elsewhere.
        resting: bytes of one rank while that server is awake, which sleeps while steps are trained (`server.sleep`);
            None: it never sleeps.
    """
    found = []
    for host, own in facts.items():
        ranks = slots.get(host, 0)
        per_host = ranks * (host_needs + (0 if on_gpu else device_needs))
        if per_host > own["memory"]["available"]:
            message = f"{ranks} ranks need {per_host / GIB:.1f} GiB of memory, "
            message += f"{own['memory']['available'] / GIB:.1f} are free"
            found.append(Finding("memory", host, ERROR, f"{message}: {REMEDIES}"))
        share = f" beside the server's {served:.0%}" if served else ""
        needs = [(device_needs, served, 0, share)]  # bytes, the server's share of a GPU and its bytes beside it
        if served and resting is not None:
            needs = [
                (device_needs, 0.0, ASLEEP, " beside the sleeping server"),
                (resting, served, 0, f"{share} while it is awake"),
            ]
        for needed, part, kept, beside in needs:
            left = [d["free"] - int(part * d["total"]) - kept for d in own["devices"] if d["total"]]
            if on_gpu and left and (least := min(left)) < needed:
                message = f"a rank needs {needed / GIB:.1f} GiB, its GPU has {least / GIB:.1f} free{beside}"
                found.append(Finding("memory", host, ERROR, f"{message}: {REMEDIES}"))
    return all_ok("memory", found, f"{device_needs / GIB:.2f} GiB a rank")


def shared_memory(facts: Facts, on_gpu: bool) -> list[Finding]:
    """Room in /dev/shm, by which NCCL and vLLM's processes talk; a container has 64 MiB by default."""
    found = [
        Finding("shared memory", host, WARNING, f"/dev/shm has {own['shm'] / MIB:.0f} MiB free: {SHM_REMEDY}")
        for host, own in facts.items()
        if own.get("shm") is not None and own["shm"] < (GIB if on_gpu else GIB // 8)
    ]
    return all_ok("shared memory", found, "/dev/shm")


def compiler(facts: Facts, wanted_by: str | None) -> list[Finding]:
    """CUDA's compiler where DeepSpeed has to build an operator. `wanted_by`: the setting that needs it, if one does."""
    if wanted_by is None:
        return []
    message = (
        f"{wanted_by} has DeepSpeed build an operator, and there is no nvcc: install the CUDA toolkit, set CUDA_HOME"
    )
    found = [Finding("compiler", host, ERROR, message) for host, own in facts.items() if not own.get("nvcc")]
    return all_ok("compiler", found, "nvcc")


SHM_REMEDY = "give the container more, as by docker run --shm-size=8g or --ipc=host"
REMEDIES = (
    "a lower server.gpu_memory_utilization, more ranks, train.gradient_checkpointing=true, a smaller train.micro or "
    "train.micro_tokens, train.lora.r=16, or dist.student_config=ds_configs/student_gpu_offload.json"
)
