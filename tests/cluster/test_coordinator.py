"""The coordinator accepts ranks with the key alone, and names the rank that failed first."""

import hashlib
import hmac
import json
import socket
import time
from contextlib import contextmanager

import pytest

from nopsd.cluster.coordinator import Coordinator
from nopsd.cluster.wire import proof


def test_a_connection_without_the_key_is_ignored():
    """Without the key nobody can report a failure; if this fails, anyone on the network can end the run."""
    coordinator = Coordinator("127.0.0.1", 2, "the key", 5.0).start()
    try:
        for key, welcome in (("another key", False), ("the key", True)):
            with socket.create_connection(("127.0.0.1", coordinator.port), 5) as connection:
                challenge = json.loads(connection.recv(4096))["challenge"]
                shown = hmac.new(key.encode(), f"{challenge} 1".encode(), hashlib.sha256).hexdigest()
                hello = {"rank": 1, "host": "h", "proof": shown, "failed": "vanished"}
                connection.sendall(json.dumps(hello).encode() + b"\n")
                deadline = time.monotonic() + 4
                while coordinator.root_cause is None and time.monotonic() < deadline - (0 if welcome else 2):
                    time.sleep(0.05)
            assert (coordinator.root_cause is not None) == welcome
    finally:
        coordinator.close()


@contextmanager
def sentinel(coordinator, rank, host):
    """A rank's connection, admitted; yields what sends a message on it."""
    with socket.create_connection(("127.0.0.1", coordinator.port), 5) as connection:
        challenge = json.loads(connection.recv(4096))["challenge"]

        def send(**message):
            connection.sendall(json.dumps(message).encode() + b"\n")

        send(rank=rank, host=host, proof=proof("the key", challenge, rank))
        while coordinator.connected <= rank:
            time.sleep(0.01)
        time.sleep(0.2)
        yield send


@pytest.mark.parametrize("how", ["received", "broken"])
def test_the_rank_that_failed_is_named(how):
    """Rank 0 calls the servers; the other ranks may report its error before it does, since it has files to close."""
    coordinator = Coordinator("127.0.0.1", 2, "the key", 20.0).start()
    try:
        with sentinel(coordinator, 0, "head") as zero, sentinel(coordinator, 1, "other") as one:
            if how == "received":
                one(failed="user_error", message="no server is left", of_rank=0)
            else:
                one(failed="user_error", message="weight sync: rank 1 on other ends, for rank 0 failed")
                time.sleep(2)
                zero(failed="user_error", message="no server is left")
            deadline = time.monotonic() + 8
            while coordinator.root_cause is None and time.monotonic() < deadline:
                time.sleep(0.05)
        cause = coordinator.root_cause
        assert (cause.rank, cause.host, cause.message) == (0, "head", "no server is left")
    finally:
        coordinator.close()
