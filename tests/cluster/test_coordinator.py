"""The coordinator accepts ranks with the key alone, and names the rank that failed first."""

import hashlib
import hmac
import json
import resource
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from random import Random

import pytest

from nopsd.cluster.coordinator import STRANGERS, Coordinator
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


HOSTILE = (
    b'{"rank": 0, "proof": "\\ud800"}\n',  # half a surrogate can't be encoded
    b'{"rank": true, "proof": ""}\n',
    b'{"rank": 1e400, "proof": "x"}\n',
    b'{"rank": 0, "proof": ["x"]}\n',
    b"[" * 60_000,
    b"[" * 60_000 + b"\n",
    b"x" * 200_000,
    b"\x00\xff\xfe" * 100 + b"\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\n" * 1000,
    b"",
)


def test_no_bytes_of_a_stranger_end_the_watch_or_a_run():
    """One line without the key ended a run; and connections that prove nothing kept ranks out."""
    random, held = Random(1), []
    coordinator = Coordinator("127.0.0.1", 2, "the key", 20.0).start()
    noise = [random.randbytes(random.randrange(2000)) + b"\n" for _ in range(100)]
    try:
        for data in (*HOSTILE, *noise):
            connection = socket.create_connection(("127.0.0.1", coordinator.port), 5)
            with suppress(OSError):  # it may have hung up before all was sent
                connection.sendall(data)
            held.append(connection)
        with sentinel(coordinator, 0, "head") as zero:
            zero(failed="user_error", message="the reason")
            deadline = time.monotonic() + 5
            while coordinator.root_cause is None and time.monotonic() < deadline:
                time.sleep(0.05)
        assert coordinator.root_cause.message == "the reason"
        assert len(coordinator._peers) <= 2 + STRANGERS
    finally:
        for connection in held:
            connection.close()
        coordinator.close()


def test_descriptors_that_strangers_use_up_are_taken_back():
    """Broken if whoever opens enough connections ends the thread that watches the ranks."""
    coordinator = Coordinator("127.0.0.1", 1, "the key", 20.0).start()
    flood = (
        "import socket, sys, time\n"
        f"held = [socket.create_connection(('127.0.0.1', {coordinator.port}), 5) for _ in range(100)]\n"
        "print('there', flush=True)\ntime.sleep(60)"
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    process = subprocess.Popen([sys.executable, "-c", flood], stdout=subprocess.PIPE)
    with socket.socket() as rank:
        resource.setrlimit(resource.RLIMIT_NOFILE, (rank.fileno() + 10, hard))
        try:
            assert process.stdout.readline() == b"there\n"
            rank.settimeout(10)
            rank.connect(("127.0.0.1", coordinator.port))
            challenge = json.loads(rank.recv(4096))["challenge"]
            hello = {"rank": 0, "host": "head", "proof": proof("the key", challenge, 0)}
            rank.sendall(json.dumps(hello).encode() + b'\n{"disconnect": true}\n')
            deadline = time.monotonic() + 10
            while not coordinator.done and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            process.kill()
            process.communicate()
            coordinator.close()
    assert coordinator.done


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
