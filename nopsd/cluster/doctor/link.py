"""How fast two hosts talk to each other: latency and bandwidth of gloo, which moves weights and gathers.

Run on each end as `python -m nopsd.cluster.doctor.link`, over ssh. In, one line of JSON on standard input:
`{"address": own}` for the end that opens, `{"address": own, "peer": address, "port": port}` for the one that joins.
Out, on the opening end: first `{"port": n}`, then `{"latency_ms": x, "gib_per_s": y}`. Both give up after `TIMEOUT_S`.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
import torch.distributed as dist

from nopsd.engine.store import join_store, open_store
from nopsd.rollout.transport import gloo_group

TIMEOUT_S = 20.0
NAME = "nopsd-doctor"
SMALL, LARGE, ROUNDS = 1, 64 * 2**20, 20


def measure(group: Any) -> tuple[float, float]:
    """Milliseconds of half a one-byte sum over both, GiB a second of a large broadcast."""
    small, large = torch.zeros(SMALL, dtype=torch.uint8), torch.zeros(LARGE, dtype=torch.uint8)
    for buffer in (small, large):  # connections are made at first use
        _barrier(group, buffer)
    start = time.perf_counter()
    for _ in range(ROUNDS):
        _barrier(group, small)
    latency = (time.perf_counter() - start) / ROUNDS / 2
    start = time.perf_counter()
    group.broadcast([large], dist.BroadcastOptions()).wait()
    _barrier(group, small)
    return 1e3 * latency, LARGE / 2**30 / (time.perf_counter() - start)


def _barrier(group: Any, buffer: Any) -> None:
    """A sum over both ends: neither is done before the other has come."""
    group.allreduce([buffer]).wait()


def main() -> None:
    """One end of a measurement."""
    asked = json.loads(sys.stdin.readline())
    opens = "peer" not in asked
    if opens:
        store: Any = open_store(asked["address"], TIMEOUT_S)
        print(json.dumps({"port": store.port}), flush=True)
    else:
        store = join_store(asked["peer"], asked["port"], TIMEOUT_S)
    group = gloo_group(store, NAME, asked["address"], 0 if opens else 1, 2, TIMEOUT_S)
    latency, bandwidth = measure(group)
    if opens:
        print(json.dumps({"latency_ms": latency, "gib_per_s": bandwidth}), flush=True)
    # The joiner leaves first: the opener's store must be there as long as the other end reads it.
    del group
    if opens:
        store.wait(["done"])
    else:
        store.set("done", "1")


if __name__ == "__main__":
    main()
