"""Receives every rank's heartbeats and ends all ranks when one fails; a thread of the process that launched them.

In: the number of ranks, a key, how long a rank may be silent. Out: `root_cause` of a failure, or `done` when every rank
has disconnected in order. Without a launching process of ours (a `deepspeed` command typed by hand) rank 0's sentinel
runs it. Standard library only.
"""

from __future__ import annotations

import secrets
import selectors
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from nopsd.cluster.root_cause import Failure, find_root_cause, is_consequence
from nopsd.cluster.wire import LONGEST_LINE, Lines, line, proof, same

SETTLE_S = 1.0  # between the first failure and the decision: a cause may be noticed after its consequence
CAUSE_S = 4.0  # likewise, while no more than consequences are known: a rank that fails closes what it holds open first
PROVE_S = 10.0  # for a connection to show that it holds the key
TOGETHER_S = 120.0  # between the first rank's report and the last's, at the start
STRANGERS = 64  # connections without a proof at one time, beyond one a rank
FULL_S = 0.1  # before the next attempt to accept, where descriptors are used up
NEVER = float("inf")


def heartbeat_interval(heartbeat_s: float) -> float:
    """Seconds between heartbeats."""
    return min(2.0, heartbeat_s / 5)


@dataclass
class _Peer:
    connection: socket.socket
    challenge: str
    heard: float
    rank: int | None = None
    host: str = ""
    at: str = ""
    disconnected: bool = False
    lines: Lines = field(default_factory=Lines)


class Coordinator:
    """Listens on `address` (any free port: `.port`) from construction on; `start()` begins to watch.

    `hosts`: the ranks' hosts by rank where they are known, for messages about ranks that never report.
    """

    def __init__(self, address: str, world: int, key: str, heartbeat_s: float, hosts: tuple[str, ...] = ()) -> None:
        self.world, self.heartbeat_s, self._key, self._hosts = world, heartbeat_s, key, hosts
        self._listener = socket.create_server((address, 0), backlog=max(128, world))
        self.address, self.port = address, int(self._listener.getsockname()[1])
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._peers: dict[socket.socket, _Peer] = {}
        self._known: dict[int, _Peer] = {}
        self._failures: list[Failure] = []
        self._first_report = self._settled = NEVER
        self._ending, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._loop, name="coordinator", daemon=True)
        self.root_cause: Failure | None = None

    def start(self) -> Coordinator:
        self._thread.start()
        return self

    @property
    def done(self) -> bool:
        """Every rank has ended in order."""
        return len(self._known) == self.world and all(peer.disconnected for peer in self._known.values())

    @property
    def connected(self) -> int:
        """Ranks whose connection is open."""
        return sum(peer.rank is not None for peer in list(self._peers.values()))

    @property
    def missing(self) -> list[str]:
        """The ranks that have never reported, with their hosts where these are known."""
        ranks = [rank for rank in range(self.world) if rank not in self._known]
        return [f"rank {r} on {self._hosts[r]}" if r < len(self._hosts) else f"rank {r}" for r in ranks]

    def close(self, wait_s: float = 5.0) -> None:
        """End the ranks that have not disconnected, at once, and stop listening when they are gone."""
        self._ending.set()
        deadline = time.monotonic() + wait_s
        while self.connected and time.monotonic() < deadline:
            time.sleep(0.05)
        self._closing.set()
        self._thread.join()
        for peer in list(self._peers.values()):
            peer.connection.close()
        self._listener.close()
        self._selector.close()

    def _loop(self) -> None:
        every, next_tick = heartbeat_interval(self.heartbeat_s), 0.0
        while not self._closing.is_set():
            for key, _ in self._selector.select(min(every, 0.1)):
                if key.fileobj is self._listener:
                    self._accept()
                elif (peer := self._peers.get(key.fileobj)) is not None:  # type: ignore[call-overload]
                    self._read(peer)
            now = time.monotonic()
            if self._ending.is_set():
                self._send_all({"end": "stopped", "at_once": True})
            if now >= next_tick:
                next_tick = now + every
                self._tick(now)
            if self.root_cause is None and now >= self._settled:
                self.root_cause = find_root_cause(self._failures)
                self._send_all({"end": self.root_cause.kind})

    def _accept(self) -> None:
        """The oldest strangers make room: a rank proves itself at once, and whoever doesn't holds a descriptor."""
        strangers = [peer for peer in self._peers.values() if peer.rank is None]
        try:
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # it has gone again, or descriptors are used up
            if strangers:
                return self._drop(strangers[0])
            time.sleep(FULL_S)
            return
        if len(strangers) >= self.world + STRANGERS:
            self._drop(strangers[0])
        peer = _Peer(connection, secrets.token_hex(16), time.monotonic())
        self._peers[connection] = peer
        self._selector.register(connection, selectors.EVENT_READ)
        self._send(peer, {"challenge": peer.challenge})

    def _read(self, peer: _Peer) -> None:
        try:
            received = peer.connection.recv(LONGEST_LINE)
            messages = peer.lines.feed(received)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            received, messages = b"", []
        for message in messages:
            if peer.rank is None and not self._admit(peer, message):
                return self._drop(peer)
            self._receive(peer, message)
        if not received:
            self._lost(peer)

    def _admit(self, peer: _Peer, message: dict[str, Any]) -> bool:
        rank, shown = message.get("rank"), message.get("proof")
        if type(rank) is not int or not isinstance(shown, str) or not 0 <= rank < self.world:
            return False
        if not same(shown, proof(self._key, peer.challenge, rank)) or rank in self._known:
            return False
        peer.rank, peer.host = rank, str(message.get("host", ""))
        self._known[rank] = peer
        self._first_report = min(self._first_report, time.monotonic())
        return True

    def _receive(self, peer: _Peer, message: dict[str, Any]) -> None:
        peer.heard = time.monotonic()
        peer.at = str(message.get("at", peer.at))
        if "failed" in message:
            of_rank = message.get("of_rank")
            whose = self._known.get(of_rank, peer) if isinstance(of_rank, int) else peer
            self._fail(whose, str(message["failed"]), str(message.get("message", "")))
        elif message.get("disconnect"):
            peer.disconnected = True

    def _lost(self, peer: _Peer) -> None:
        """The connection has ended; if the rank neither disconnected nor failed, its sentinel was killed."""
        self._drop(peer)
        if peer.rank is not None and not peer.disconnected and all(f.rank != peer.rank for f in self._failures):
            self._fail(peer, "vanished", "")

    def _tick(self, now: float) -> None:
        self._send_all({"alive": True} if self.root_cause is None else {"end": self.root_cause.kind})
        for peer in list(self._peers.values()):
            if peer.rank is None and now - peer.heard > PROVE_S:
                self._drop(peer)
            elif peer.rank is not None and not peer.disconnected and now - peer.heard > self.heartbeat_s:
                self._fail(peer, "silent", "")
                self._drop(peer)
        if now - self._first_report > max(TOGETHER_S, 3 * self.heartbeat_s) and len(self._known) < self.world:
            missing = next(rank for rank in range(self.world) if rank not in self._known)
            self._first_report = NEVER
            host = self._hosts[missing] if missing < len(self._hosts) else "a host"
            self._note(Failure("absent", missing, host))

    def _fail(self, peer: _Peer, kind: str, message: str) -> None:
        assert peer.rank is not None
        self._note(Failure(kind, peer.rank, peer.host, peer.at, message))

    def _note(self, failure: Failure) -> None:
        self._failures.append(failure)
        wait_s = CAUSE_S if is_consequence(failure) else SETTLE_S
        self._settled = min(self._settled, time.monotonic() + wait_s)

    def _send_all(self, message: dict[str, Any]) -> None:
        for peer in list(self._peers.values()):
            if peer.rank is not None:
                self._send(peer, message)

    def _send(self, peer: _Peer, message: dict[str, Any]) -> None:
        try:
            peer.connection.send(line(message))
        except BlockingIOError:
            pass  # its buffer is full: it hasn't read for long, and is found silent later
        except OSError:
            self._lost(peer)

    def _drop(self, peer: _Peer) -> None:
        if self._peers.pop(peer.connection, None):
            self._selector.unregister(peer.connection)
            peer.connection.close()
