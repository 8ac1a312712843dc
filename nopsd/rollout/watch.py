"""Whether servers at work are alive: a thread asks them while requests wait for their answers .

A killed server breaks its connections, and is noticed by the requests themselves. One that hangs (stopped, swapped
out, its host gone without a word) leaves them waiting: here it is noticed by a /health that isn't answered, and one
whose engine alone hangs, whose front end goes on answering, by token counters that stand still. The last server, whose
loss ends the run, is given the longer time of the two: a busy host answers late.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nopsd.errors import ServerError
from nopsd.rollout.background import all_at_once
from nopsd.rollout.client import RolloutClient

PROBE_EVERY_S = 2.0
PROBE_TIMEOUT_S = 5.0
PROBE_FAILURES = 3  # in a row: a busy host may miss one


@dataclass
class _Seen:
    """What was last seen of a server's work."""

    failures: int = 0
    heard_at: float = 0.0
    tokens: float = -1.0
    moved_at: float = 0.0


class Watch:
    """Use as a context manager around requests. `busy` gives the servers that owe an answer at this moment."""

    def __init__(
        self,
        busy: Callable[[], Sequence[RolloutClient]],
        lost: Callable[[RolloutClient, str], None],
        stall_s: float,
        is_last: Callable[[], bool] = lambda: False,
    ) -> None:
        """`lost` is called once a server is found dead, with the reason; `stall_s`: 0 to leave counters alone, and the
        last server to its requests' own deadline. `is_last`: whether no more than one server is left."""
        self._busy, self._lost, self._stall_s, self._is_last = busy, lost, stall_s, is_last
        self._seen: dict[str, _Seen] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(PROBE_EVERY_S):
            busy = list(self._busy())
            for url in self._seen.keys() - {server.url for server in busy}:
                del self._seen[url]  # idle: what it did before says nothing about what it will owe
            answers, failures = all_at_once(_poll, busy, 2 * PROBE_TIMEOUT_S)
            for server, tokens in answers:
                self._judge(server, tokens)
            for server, _ in failures:
                self._judge(server, None)

    def _judge(self, server: RolloutClient, tokens: float | None) -> None:
        now = time.monotonic()
        seen = self._seen.setdefault(server.url, _Seen(heard_at=now, moved_at=now))
        if tokens is None:
            seen.failures += 1
            patient = self._is_last() and not 0 < self._stall_s < now - seen.heard_at
            if seen.failures >= PROBE_FAILURES and not patient:
                self._lost(server, f"no answer to {seen.failures} calls of /health in a row")
            return
        seen.failures, seen.heard_at = 0, now
        if tokens != seen.tokens:
            seen.tokens, seen.moved_at = tokens, now
        elif 0 < self._stall_s < now - seen.moved_at:
            self._lost(server, f"no token in server.stall_timeout_s={self._stall_s:g} s, with requests waiting")


def _poll(server: RolloutClient) -> float:
    """Tokens done so far; ServerError if it doesn't answer."""
    server.request("GET", "/health", timeout_s=PROBE_TIMEOUT_S)
    try:
        return server.tokens_done(PROBE_TIMEOUT_S)
    except ServerError:  # alive, but it gives no counters: they can't be judged by
        return time.monotonic()
