"""Buckets and gloo groups: if these fail, weights land in other places, or a stranger finds the store."""

from __future__ import annotations

import socket
import threading

import pytest
import torch

from nopsd.engine.store import join_store, open_store
from nopsd.rollout.transport import finish, gloo_group, places, plan_buckets, start_broadcast


def test_items_of_a_bucket_stand_apart_and_aligned() -> None:
    """A float64 view of a place that isn't a multiple of 8 bytes is refused by torch."""
    starts, total = places([3, 64, 1, 130])
    assert starts == [0, 64, 128, 192] and total == 192 + 192
    assert places([]) == ([], 0)


def test_a_group_works_after_its_store_has_closed() -> None:
    """It is closed as soon as the server is met, so that no stranger finds it."""
    store = open_store("127.0.0.1", 10)
    port, made = store.port, {}

    def join(rank: int) -> None:
        made[rank] = gloo_group(join_store("127.0.0.1", port, 10), "n", "127.0.0.1", rank, 2, 10)

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    del store
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 2)
    buffers = [torch.full((4,), 9, dtype=torch.uint8), torch.zeros(4, dtype=torch.uint8)]
    works = [start_broadcast(made[rank], buffers[rank]) for rank in range(2)]
    for work in works:
        finish(work)
    assert buffers[1].tolist() == [9] * 4


def test_buckets_keep_order_and_cap() -> None:
    assert plan_buckets([3, 3, 3, 9, 1, 8], cap=8) == [[0, 1], [2], [3], [4], [5]]
    assert plan_buckets([], 8) == []
