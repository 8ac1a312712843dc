"""Watches one rank from a process of its own beside it, so that a rank that hangs, even stopped, can be ended.

In, on standard input: a JSON line of settings (`Settings`), then the rank's signs of life; the input's end without a
leave is the rank's end. Out: what is seen, to the coordinator; an order of the coordinator, or its silence, ends the
rank. Started by `nopsd.cluster.watchdog`. Standard library only; Linux.
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

from nopsd.cluster.coordinator import PROVE_S, Coordinator, beat_every
from nopsd.cluster.verdict import sentence
from nopsd.cluster.wire import Lines, connect, line, proof

LAST_WORDS_S = 1.5  # a rank that is to end may just be saying why
BUSY_FACTOR = 10  # a silent rank that uses the processor, or waits for a disk, has so many times as long
ERROR = "nopsd: error: "


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
    """Between one rank's pipe and the coordinator's connection."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.heard_rank = self.heard_head = time.monotonic()
        self.at, self.left, self.rank_open = "", False, True
        self.ending: float | None = None  # since when the rank has been told to end
        self._said = False  # the rank's failure has been reported
        self._cpu = (0.0, self.heard_rank)
        self._from_rank, self._from_head = Lines(), Lines()

    def open(self, port: int) -> None:
        """Connect to the coordinator and show that we hold the key. OSError or ValueError if that fails."""
        own = self.settings
        self.head = connect(own.address, port, PROVE_S)
        challenge = ""
        while not challenge:
            received = self.head.recv(1 << 12)
            if not received:
                raise OSError("it hung up")
            for message in self._from_head.feed(received):
                challenge = str(message["challenge"])
        self.head.sendall(line({"rank": own.rank, "host": own.host, "proof": proof(own.key, challenge, own.rank)}))

    def run(self) -> None:
        """Until the rank has ended, in order or not."""
        every, next_beat = beat_every(self.settings.heartbeat_s), 0.0
        while self.rank_open:
            sources = [sys.stdin, *([self.head] if self.head.fileno() >= 0 else [])]
            for source in select.select(sources, [], [], min(every, 0.25))[0]:
                self._read_rank() if source is sys.stdin else self._read_head()
            now = time.monotonic()
            if now >= next_beat:
                next_beat = now + every
                self._tell({"at": self.at})
                self._judge(now)
            if self.ending is not None and now - self.ending > LAST_WORDS_S:
                self._kill()
        if not self.left and self.ending is None and not self._said:
            self._tell({"failed": "vanished", "at": self.at})

    def _read_rank(self) -> None:
        received = os.read(sys.stdin.fileno(), 1 << 16)
        self.rank_open = bool(received)
        self.heard_rank = time.monotonic()
        for message in self._from_rank.feed(received):
            self.at = message.get("at", self.at)
            if "words" in message:
                self._said = True
                of_rank = message["of_rank"]
                self._tell({"failed": message["kind"], "words": message["words"], "at": self.at, "of_rank": of_rank})
            elif message.get("leave"):
                self.left = True
                self._tell({"leave": True})

    def _read_head(self) -> None:
        try:
            received = self.head.recv(1 << 16)
            messages = self._from_head.feed(received)
        except (OSError, ValueError):
            received, messages = b"", []
        self.heard_head = time.monotonic()
        if not received:
            self.head.close()
            self._order_end("the command that launched the ranks is gone")
        for message in messages:
            if "end" in message:
                self._order_end("")
            if message.get("at_once"):
                self._kill()

    def _judge(self, now: float) -> None:
        """Is the rank silent, or the coordinator?"""
        limit = self.settings.heartbeat_s
        if now - self.heard_head > limit and self.head.fileno() >= 0:
            self._order_end(f"nothing was heard from the first host for {limit:g} s: it, or the network to it, is down")
        silent = now - self.heard_rank
        if self.ending is None and not self._said and silent > limit and (state := self._stuck(now, silent)):
            self._said = True
            self._tell({"failed": "hung", "words": state, "at": self.at})
            self._order_end("")

    def _stuck(self, now: float, silent: float) -> str:
        """Words for the state of a silent rank that doesn't work either, '' for one that does."""
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
            if why and not self.left:
                own = self.settings
                print(f"{ERROR}[rank {own.rank}] {own.host}: {why}; this rank ends", file=sys.stderr, flush=True)

    def _kill(self) -> None:
        if os.getppid() == self.settings.pid:
            os.kill(self.settings.pid, signal.SIGKILL)

    def _tell(self, message: dict[str, object]) -> None:
        try:
            self.head.sendall(line(message))
        except OSError:
            if self.head.fileno() >= 0:
                self.head.close()
            if not self.left:
                self._order_end("the command that launched the ranks is gone")


def process_state(pid: int) -> tuple[str, float]:
    """A process's state letter (proc(5)) and the seconds of processor time it has used."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return "X", 0.0
    return fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def see_out(coordinator: Coordinator) -> None:
    """Serve the other ranks to their end, and say what happened, since nobody else will."""
    deadline = time.monotonic() + 2 * LAST_WORDS_S
    while coordinator.connected and (coordinator.verdict is None or time.monotonic() < deadline):
        time.sleep(0.1)
    if coordinator.verdict:
        print(f"{ERROR}{sentence(coordinator.verdict, coordinator.heartbeat_s)}", file=sys.stderr, flush=True)
    coordinator.close()


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the rank's end is what ends us
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
    sentinel.head.settimeout(5.0)
    sentinel.run()
    if own:
        sentinel.head.close()
        see_out(own)
    return 0


def settings_line(settings: Settings) -> bytes:
    return line(asdict(settings))


if __name__ == "__main__":
    sys.exit(main())
