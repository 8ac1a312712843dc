"""Each planted fault is found, on the host it was planted on, with a remedy; healthy hosts give no finding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from nopsd.cluster import findings
from nopsd.cluster.doctor import checks
from nopsd.cluster.findings import ERROR, OK, WARNING, Finding

GIB = 2**30
GPU = {"name": "H200", "total": 140 * GIB, "free": 139 * GIB}
HEALTHY: dict[str, Any] = {
    "host": "node1",
    "clock": 1000.0,
    "python": "3.11.7",
    "packages": {"torch": "2.13.0", "deepspeed": "0.19.8"},
    "source": "abc",
    "cpus": 16,
    "memory": {"total": 64 * GIB, "available": 60 * GIB},
    "devices": [GPU, GPU],
    "folders": {"run_dir": {"path": "/runs/a", "free": 500 * GIB, "writable": True}},
    "model": "m1",
    "names": {"node1": ["10.0.0.1"], "node2": ["10.0.0.2"]},
    "ports_in_use": [],
    "nvcc": "/usr/local/cuda/bin/nvcc",
    "shm": 8 * GIB,
    "token": "t",
}
SLOTS = {"node1": 2, "node2": 2}
CHECKS: dict[str, Callable[[Any], list[Finding]]] = {
    "versions": findings.versions,
    "clock": lambda facts: checks.clocks(facts, {"node1": 1000.0, "node2": 1000.0, "node3": 1000.0}),
    "names": findings.names,
    "ports": checks.ports,
    "run_dir": lambda facts: findings.shared_folder(facts, "t"),
    "disk": lambda facts: checks.disk(facts, 100 * GIB),
    "model": checks.model,
    "devices": lambda facts: checks.devices(facts, SLOTS, on_gpu=True),
    "shared memory": lambda facts: checks.shared_memory(facts, on_gpu=True),
    "compiler": lambda facts: checks.compiler(facts, "offload_optimizer.device=nvme"),
    "memory": lambda facts: checks.memory(facts, SLOTS, 100 * GIB, 8 * GIB, on_gpu=True),
}
FAULTS: list[tuple[str, str, dict[str, Any], str]] = [  # the check that finds it, its level, what node2 says, words
    ("versions", ERROR, {"python": "3.12.1"}, "Python is 3.12.1"),
    ("versions", ERROR, {"packages": {"torch": "2.12.0", "deepspeed": "0.19.8"}}, "torch is 2.12.0"),
    ("versions", ERROR, {"packages": {"torch": "2.13.0"}}, "deepspeed is not installed"),
    ("versions", ERROR, {"source": "other"}, "source"),
    ("clock", ERROR, {"clock": 1090.0}, "90"),
    ("names", ERROR, {"names": {"node1": [], "node2": ["10.0.0.2"]}}, "can't resolve node1"),
    ("names", ERROR, {"names": {"node1": ["127.0.1.1"], "node2": ["10.0.0.2"]}}, "resolves node1 to itself"),
    ("names", WARNING, {"names": {"node1": ["10.0.0.1"], "node2": ["127.0.1.1"]}}, "GLOO_SOCKET_IFNAME"),
    ("ports", ERROR, {"ports_in_use": [29500]}, "29500"),
    ("run_dir", ERROR, {"token": None}, "not the head's folder"),
    ("run_dir", ERROR, {"folders": {"run_dir": {"path": "/runs/a", "free": 1, "writable": False}}}, "written"),
    ("disk", ERROR, {"folders": {"run_dir": {"path": "/runs/a", "free": GIB, "writable": True}}}, "1.0 GiB free"),
    ("model", ERROR, {"model": None}, "isn't there"),
    ("model", ERROR, {"model": "m2"}, "other weights"),
    ("devices", ERROR, {"devices": []}, "2 slots"),
    ("devices", WARNING, {"devices": [GPU, {**GPU, "total": None, "free": None}]}, "doesn't say"),
    ("shared memory", WARNING, {"shm": 64 * 2**20}, "64 MiB free: give the container more"),
    ("compiler", ERROR, {"nvcc": None}, "there is no nvcc"),
    ("devices", WARNING, {"devices": [GPU, {**GPU, "free": 70 * GIB}]}, "GPU 1 has 70 of 140"),
    ("memory", ERROR, {"memory": {"total": 16 * GIB, "available": 8 * GIB}}, "8.0 are free"),
    ("memory", ERROR, {"devices": [{"name": "A", "total": 80 * GIB, "free": 80 * GIB}] * 2}, "gradient_checkpointing"),
]


def hosts(**changed: Any) -> dict[str, dict[str, Any]]:
    return {"node1": copy.deepcopy(HEALTHY), "node2": {**copy.deepcopy(HEALTHY), "host": "node2", **changed}}


@pytest.mark.parametrize("check", CHECKS)
def test_healthy_hosts_give_one_row_that_says_so(check: str) -> None:
    """Else `doctor` cries wolf, and nobody reads it."""
    facts = hosts() if check != "clock" else {**hosts(), "node3": HEALTHY}
    assert [(f.level, f.host) for f in CHECKS[check](facts)] == [(OK, "all")]


@pytest.mark.parametrize(("check", "level", "changed", "words"), FAULTS)
def test_a_planted_fault_is_found_where_it_is(check: str, level: str, changed: dict[str, Any], words: str) -> None:
    """Else the run starts on it and dies hours later."""
    facts = hosts(**changed) if check != "clock" else {**hosts(**changed), "node3": HEALTHY}
    found = CHECKS[check](facts)
    assert [(f.check, f.host, f.level) for f in found] == [(check, "node2", level)]
    assert words in found[0].message


def test_ranks_on_cpu_cores_are_counted_against_the_hosts_memory() -> None:
    """On a laptop device memory is host memory: two ranks of 40 GiB don't fit 60."""
    found = checks.memory(hosts(), SLOTS, 40 * GIB, 0, on_gpu=False)
    assert [f.level for f in found] == [ERROR, ERROR] and "80.0 GiB" in found[0].message


def test_the_servers_share_of_a_gpu_counts():
    """A rank of 90 GiB fits on a free GPU of 140, but not beside a server that takes 45 % of it."""
    facts = {"node1": HEALTHY}
    assert levels(checks.memory(facts, SLOTS, 90 * GIB, 0, on_gpu=True)) == {OK}
    found = checks.memory(facts, SLOTS, 90 * GIB, 0, on_gpu=True, served=0.45)
    assert levels(found) == {ERROR} and "76.0 free beside the server's 45%" in str(found[0])
    unknown = {"node1": {**HEALTHY, "devices": [{**GPU, "total": None, "free": None}]}}
    assert levels(checks.memory(unknown, SLOTS, 90 * GIB, 0, on_gpu=True, served=0.45)) == {OK}


def test_a_server_that_sleeps_gives_its_share_back_while_a_step_trains():
    """A step of 90 GiB fits beside a sleeping server; what rests of the rank must fit beside it awake."""
    facts = {"node1": HEALTHY}
    given = {"on_gpu": True, "served": 0.45}
    assert levels(checks.memory(facts, SLOTS, 90 * GIB, 0, **given, resting=70 * GIB)) == {OK}
    found = checks.memory(facts, SLOTS, 90 * GIB, 0, **given, resting=80 * GIB)
    assert levels(found) == {ERROR} and "76.0 free beside the server's 45% while it is awake" in str(found[0])
    found = checks.memory(facts, SLOTS, 139 * GIB, 0, **given, resting=70 * GIB)
    assert levels(found) == {ERROR} and "beside the sleeping server" in str(found[0])


def levels(findings):
    return {found.level for found in findings}
