"""From the hosts' facts to findings: what would break the run, on which host, and the remedy (issue 5).

Pure functions. In: facts by host (`nopsd.cluster.doctor.host`), the first one the head's. Out: `Finding`s, in the
order of the table that `nopsd doctor` prints.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OK, WARNING, ERROR = "ok", "warning", "error"
CLOCK_S = 5.0  # file times and time-outs of one host are read on another
LOOPBACK = ("127.", "::1")
GIB = 2**30
Facts = Mapping[str, Mapping[str, Any]]  # host -> its facts


@dataclass(frozen=True)
class Finding:
    """One row of the table."""

    check: str
    host: str  # "all" where it holds for every one
    level: str
    message: str


def all_ok(check: str, findings: list[Finding], message: str) -> list[Finding]:
    """The findings, or one row that says there are none."""
    return findings or [Finding(check, "all", OK, message)]


def versions(facts: Facts) -> list[Finding]:
    """Python, packages and our own code must be the same everywhere: the head's are the measure."""
    head, *_ = facts.values()
    found = []
    for host, own in facts.items():
        if own["python"].rsplit(".", 1)[0] != head["python"].rsplit(".", 1)[0]:
            found.append(_differs(host, "Python", own["python"], head["python"]))
        for name in sorted({*head["packages"], *own["packages"]}):
            ours, theirs = head["packages"].get(name), own["packages"].get(name)
            if ours != theirs:
                found.append(_differs(host, name, theirs or "not installed", ours or "none"))
        if own["source"] != head["source"]:
            found.append(_differs(host, "nopsd's source", own["source"], head["source"]))
    return all_ok("versions", found, f"Python {head['python']}, torch {head['packages'].get('torch')}")


def _differs(host: str, what: str, theirs: str, ours: str) -> Finding:
    remedy = "install the same environment there (launcher/setup_env.sh)"
    return Finding("versions", host, ERROR, f"{what} is {theirs}, on the head {ours}: {remedy}")


def clocks(facts: Facts, asked_at: Mapping[str, float]) -> list[Finding]:
    """`asked_at`: the head's time when each host was asked (the middle of the question's way)."""
    off = {host: own["clock"] - asked_at[host] for host, own in facts.items()}
    middle = statistics.median(off.values())
    found = [
        Finding("clock", host, ERROR, f"is {value - middle:+.1f} s off the others: start chrony or ntpd there")
        for host, value in off.items()
        if abs(value - middle) > CLOCK_S
    ]
    return all_ok("clock", found, f"within {CLOCK_S:g} s")


def names(facts: Facts) -> list[Finding]:
    """Every host must resolve every other, and to the same address."""
    found = []
    for host, own in facts.items():
        for name, addresses in own["names"].items():
            if not addresses:
                found.append(Finding("names", host, ERROR, f"can't resolve {name}: add it to DNS or /etc/hosts there"))
            elif name != host and all(a.startswith(LOOPBACK) for a in addresses):
                message = f"resolves {name} to itself ({addresses[0]}): mend /etc/hosts there"
                found.append(Finding("names", host, ERROR, message))
            elif name == host and all(a.startswith(LOOPBACK) for a in addresses) and len(facts) > 1:
                remedy = "mend /etc/hosts there, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
                found.append(Finding("names", host, WARNING, f"its own name means {addresses[0]}: {remedy}"))
    return all_ok("names", found, "every host resolves every other")


def ports(facts: Facts) -> list[Finding]:
    found = [
        Finding("ports", host, ERROR, f"port {port} is in use: stop what listens there, or choose another port")
        for host, own in facts.items()
        for port in own["ports_in_use"]
    ]
    return all_ok("ports", found, "free")


def shared_folder(facts: Facts, token: str) -> list[Finding]:
    """run_dir must be one and the same folder everywhere: a file written on the head is read on each host."""
    found = []
    for host, own in facts.items():
        folder = own["folders"]["run_dir"]
        if own["token"] != token:
            message = f"run_dir={folder['path']} is not the head's folder: put it on a disk that all hosts share"
            found.append(Finding("run_dir", host, ERROR, message))
        elif not folder["writable"]:
            found.append(Finding("run_dir", host, ERROR, f"{folder['path']} can't be written there: check its owner"))
    return all_ok("run_dir", found, "one folder, seen by all")


def disk(facts: Facts, needed: int) -> list[Finding]:
    """`needed`: bytes that checkpoints and exports of the run will take."""
    found = []
    for host, own in facts.items():
        free = own["folders"]["run_dir"]["free"]
        if free < needed:
            message = f"{free / GIB:.1f} GiB free for run_dir, checkpoints need {needed / GIB:.1f}: free some"
            found.append(Finding("disk", host, ERROR, f"{message}, or lower train.keep_checkpoints"))
    return all_ok("disk", found, f"{needed / GIB:.1f} GiB needed")


def model(facts: Facts) -> list[Finding]:
    """The model and its tokenizer: there, and equal by hash."""
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
    """`slots`: ranks that the hostfile puts on each host."""
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
            if d["free"] < 0.9 * d["total"]
        ]
    return all_ok("devices", found, ", ".join(f"{count} x {name}" for name, count in kinds.items()))


def memory(facts: Facts, slots: Mapping[str, int], device_needs: int, host_needs: int, on_gpu: bool) -> list[Finding]:
    """`device_needs`, `host_needs`: bytes of one rank (`nopsd.cluster.doctor.memory`)."""
    found = []
    for host, own in facts.items():
        ranks = slots.get(host, 0)
        per_host = ranks * (host_needs + (0 if on_gpu else device_needs))
        if per_host > own["memory"]["available"]:
            message = f"{ranks} ranks need {per_host / GIB:.1f} GiB of memory, "
            message += f"{own['memory']['available'] / GIB:.1f} are free"
            found.append(Finding("memory", host, ERROR, f"{message}: {REMEDIES}"))
        if on_gpu and own["devices"] and (least := min(d["free"] for d in own["devices"])) < device_needs:
            message = f"a rank needs {device_needs / GIB:.1f} GiB, its GPU has {least / GIB:.1f} free"
            found.append(Finding("memory", host, ERROR, f"{message}: {REMEDIES}"))
    return all_ok("memory", found, f"{device_needs / GIB:.2f} GiB a rank")


REMEDIES = (
    "more ranks, train.gradient_checkpointing=true, a smaller train.micro or train.micro_tokens, train.lora.r=16, or "
    "dist.student_config=ds_configs/student_gpu_offload.json"
)
