"""Rendezvous stores that listen on the one address that is needed: PyTorch's own listen on all, without authentication.

In: addresses, ports, timeouts; for the ranks' own store the launcher's variables. Out: a store; `nopsd://` as the init
method of a process group whose rank 0 serves such a store. Needs torch alone.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.rendezvous import register_rendezvous_handler

SCHEME = "nopsd"
BACKLOG = 128
log = logging.getLogger(__name__)


def open_store(address: str, timeout_s: float) -> dist.TCPStore:
    """A store at a free port (`.port`) of `address` alone; closed when deleted.

    Keep a reference until every member has read it.
    """
    return _serve(_listen(address, 0), address, timeout_s)


def join_store(address: str, port: int, timeout_s: float) -> dist.TCPStore:
    """A connection to the store that `open_store` made."""
    return dist.TCPStore(address, port, None, is_master=False, timeout=timedelta(seconds=timeout_s))


def ranks_store(address: str, port: int, rank: int, world: int, timeout_s: float) -> dist.Store:
    """The store by which ranks find each other, once all are there; rank 0 serves it. Alone, a rank needs no port.

    OSError if rank 0 can't listen there.
    """
    if world == 1:
        return dist.HashStore()
    if rank == 0:
        return _serve(_listen_or_on_all(address, port), address, timeout_s, world)
    return dist.TCPStore(address, port, world, is_master=False, timeout=timedelta(seconds=timeout_s))


def init_method() -> str | None:
    """For `init_process_group`: a store of ours, but under torchrun, which serves one itself (None: its default)."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return None
    register_rendezvous_handler(SCHEME, _from_environment)
    return f"{SCHEME}://"


def _from_environment(url: str, timeout: timedelta, **options: Any) -> Iterator[tuple[dist.Store, int, int]]:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    yield ranks_store(address, port, rank, world, timeout.total_seconds()), rank, world


def _listen_or_on_all(address: str, port: int) -> socket.socket:
    """On all addresses only where the one that the others use isn't this host's own, behind a load balancer say."""
    try:
        return _listen(address, port)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        log.warning("MASTER_ADDR=%s is no address of this host: port %d is open on all of them", address, port)
        return socket.create_server(("", port), backlog=BACKLOG)


def _listen(address: str, port: int) -> socket.socket:
    family, *_, target = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(target[:2], family=family, backlog=BACKLOG)


def _serve(listening: socket.socket, address: str, timeout_s: float, world: int | None = None) -> dist.TCPStore:
    with listening:
        port = listening.getsockname()[1]
        return dist.TCPStore(
            address,
            port,
            world,
            is_master=True,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=world is not None,
            master_listen_fd=listening.detach(),
        )
