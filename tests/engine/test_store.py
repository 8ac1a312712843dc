"""Where rendezvous stores listen: if these fail, anybody on the network can write into the ranks' store."""

import os
import socket
import threading

import psutil
import pytest
import torch.distributed as dist

from nopsd.engine.store import open_store, ranks_store


def listening() -> set[tuple[str, int]]:
    found = psutil.Process(os.getpid()).net_connections("tcp")
    return {tuple(c.laddr) for c in found if c.status == psutil.CONN_LISTEN}


def met(address: str, port: int) -> list[dist.Store]:
    """Two ranks' stores, rank 0's first."""
    made: dict[int, dist.Store] = {}
    threads = [
        threading.Thread(target=lambda r=rank: made.update({r: ranks_store(address, port, r, 2, 20)}))
        for rank in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [made[0], made[1]]


def test_the_ranks_store_listens_on_the_address_of_rank_0_alone(free_port: int) -> None:
    before = listening()
    zero, one = met("127.0.0.1", free_port)
    assert listening() - before == {("127.0.0.1", free_port)}
    zero.set("key", "value")
    assert one.get("key") == b"value"


def test_a_store_for_weights_listens_on_its_address_alone() -> None:
    before = listening()
    store = open_store("127.0.0.1", 5)
    assert listening() - before == {("127.0.0.1", store.port)}


def test_a_rank_alone_opens_no_port() -> None:
    before = listening()
    ranks_store("127.0.0.1", 1, 0, 1, 5).set("key", "value")
    assert listening() == before


def test_a_port_that_is_taken_is_an_error_at_once(free_port: int) -> None:
    with socket.create_server(("127.0.0.1", free_port)), pytest.raises(OSError, match="in use"):
        ranks_store("127.0.0.1", free_port, 0, 2, 5)
