"""Watches one rank from a process of its own beside it, so that a rank that hangs, even stopped, can be ended.

In, on standard input: a JSON line of settings (`Settings`), then the rank's heartbeats; if the input ends without a
disconnect, the rank has died. Out: what is seen, to the coordinator; an order of the coordinator, or its silence, ends
the rank. Started by `nopsd.cluster.watchdog`. Standard library only; Linux.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from nopsd.cluster.coordinator import PROVE_S, Coordinator, heartbeat_interval
from nopsd.cluster.guardian import ENDING_SIGNALS
from nopsd.cluster.logs import ERROR_PREFIX
from nopsd.cluster.root_cause import describe
from nopsd.cluster.wire import Lines, connect, line, proof

MESSAGE_WAIT_S = 1.5  # a rank that is to end may just be reporting why
BUSY_FACTOR = 10  # a silent rank that uses the processor, or waits for a disk, has so many times as long


@dataclass
class Settings:
    """`pid`: the rank's process, our parent. `port` 0: run the coordinator too, on `address`, for `world` ranks."""

    rank: int
    world: int
    pid: int
    host: str
    address: str
    port: int
    key: str
    heartbeat_s: float


class Sentinel:
    """Relays between one rank's pipe and the connection to the coordinator."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.heard_rank = self.heard_coordinator = time.monotonic()
        self.at, self.disconnected, self.rank_open = "", False, True
        self.ending: float | None = None  # since when the rank has been asked to end
        self._reported = False  # the rank's failure has been reported
        self._cpu = (0.0, self.heard_rank)
        self._from_rank, self._from_coordinator = Lines(), Lines()

    def open(self, port: int) -> None:
        """Connect to the coordinator and show that we hold the key. OSError or ValueError if that fails."""
        own = self.settings
        self.connection = connect(own.address, port, PROVE_S)
        challenge = ""
        while not challenge:
            received = self.connection.recv(1 << 12)
            if not received:
                raise OSError("it hung up")
            for message in self._from_coordinator.feed(received):
                challenge = str(message.get("challenge", ""))
        self.connection.sendall(
            line({"rank": own.rank, "host": own.host, "proof": proof(own.key, challenge, own.rank)})
        )

    def run(self) -> None:
        """Until the rank has ended, in order or not."""
        every, next_beat = heartbeat_interval(self.settings.heartbeat_s), 0.0
        while self.rank_open:
            sources = [sys.stdin, *([self.connection] if self.connection.fileno() >= 0 else [])]
            for source in select.select(sources, [], [], min(every, 0.25))[0]:
                self._read_rank() if source is sys.stdin else self._read_coordinator()
            now = time.monotonic()
            if now >= next_beat:
                next_beat = now + every
                self._send({"at": self.at})
                self._check_silence(now)
            if self.ending is not None and now - self.ending > MESSAGE_WAIT_S:
                self._kill()
        if not self.disconnected and self.ending is None and not self._reported:
            self._send({"failed": "vanished", "at": self.at})

    def _read_rank(self) -> None:
        received = os.read(sys.stdin.fileno(), 1 << 16)
        self.rank_open = bool(received)
        self.heard_rank = time.monotonic()
        for message in self._from_rank.feed(received):
            self.at = message.get("at", self.at)
            if "message" in message:
                self._reported = True
                report = {name: message[name] for name in ("message", "of_rank")}
                self._send({"failed": message["kind"], "at": self.at, **report})
            elif message.get("disconnect"):
                self.disconnected = True
                self._send({"disconnect": True})

    def _read_coordinator(self) -> None:
        try:
            received = self.connection.recv(1 << 16)
            messages = self._from_coordinator.feed(received)
        except (OSError, ValueError):
            received, messages = b"", []
        self.heard_coordinator = time.monotonic()
        if not received:
            self.connection.close()
            self._order_end("the command that launched the ranks is gone")
        for message in messages:
            if "end" in message:
                self._order_end("")
            if message.get("at_once"):
                self._kill()

    def _check_silence(self, now: float) -> None:
        """Is the rank silent, or the coordinator?"""
        limit = self.settings.heartbeat_s
        if now - self.heard_coordinator > limit and self.connection.fileno() >= 0:
            self._order_end(f"nothing was heard from the first host for {limit:g} s: it, or the network to it, is down")
        silent = now - self.heard_rank
        if self.ending is None and not self._reported and silent > limit and (state := self._stuck(now, silent)):
            self._reported = True
            self._send({"failed": "hung", "message": state, "at": self.at})
            self._order_end("")

    def _stuck(self, now: float, silent: float) -> str:
        """The process state of a silent rank that does no work, in words; '' for one that works."""
        state, cpu_s = process_state(self.settings.pid)
        if cpu_s > self._cpu[0]:
            self._cpu = (cpu_s, now)
        working = now - self._cpu[1] < self.settings.heartbeat_s or state == "D"
        if working and silent < BUSY_FACTOR * self.settings.heartbeat_s:
            return ""
        stopped = {"T": "it is stopped", "t": "a debugger holds it", "D": "it waits for a disk"}
        return stopped.get(state, f"its process state is {state}")

    def _order_end(self, why: str) -> None:
        if self.ending is None:
            self.ending = time.monotonic()
            if why and not self.disconnected:
                own = self.settings
                print(f"{ERROR_PREFIX}[rank {own.rank}] {own.host}: {why}; this rank ends", file=sys.stderr, flush=True)

    def _kill(self) -> None:
        if os.getppid() == self.settings.pid:
            os.kill(self.settings.pid, signal.SIGKILL)

    def _send(self, message: dict[str, object]) -> None:
        try:
            self.connection.sendall(line(message))
        except OSError:
            if self.connection.fileno() >= 0:
                self.connection.close()
            if not self.disconnected:
                self._order_end("the command that launched the ranks is gone")


def process_state(pid: int) -> tuple[str, float]:
    """A process's state letter (proc(5)) and the seconds of processor time it has used."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return "X", 0.0
    return fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def drain(coordinator: Coordinator) -> None:
    """Serve the other ranks until they have ended, then print the root cause: no launching command will."""
    deadline = time.monotonic() + 2 * MESSAGE_WAIT_S
    while coordinator.connected and (coordinator.root_cause is None or time.monotonic() < deadline):
        time.sleep(0.1)
    if coordinator.root_cause:
        print(f"{ERROR_PREFIX}{describe(coordinator.root_cause, coordinator.heartbeat_s)}", file=sys.stderr, flush=True)
    coordinator.close()


def main() -> int:
    """Read the settings, connect, and watch the rank until it ends. Exit code 1 if no coordinator is reached."""
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # only the rank's end ends this process
    raw = b""
    while not raw.endswith(b"\n"):
        byte = os.read(sys.stdin.fileno(), 1)
        if not byte:
            return 1
        raw += byte
    settings = Settings(**json.loads(raw))
    own = None
    if settings.port == 0:
        own = Coordinator(settings.address, settings.world, settings.key, settings.heartbeat_s).start()
    sentinel = Sentinel(settings)
    try:
        sentinel.open(own.port if own else settings.port)
    except (OSError, ValueError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    print(json.dumps({"port": own.port if own else settings.port}), flush=True)
    sentinel.connection.settimeout(5.0)
    sentinel.run()
    if own:
        sentinel.connection.close()
        drain(own)
    return 0


def settings_line(settings: Settings) -> bytes:
    """The settings as the sentinel reads them."""
    return line(asdict(settings))


if __name__ == "__main__":
    sys.exit(main())
