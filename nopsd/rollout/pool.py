"""Several rollout servers behind one client: least-loaded routing, and going on when one of several is lost.

In: clients of servers with the same model. Out: what a single client gives, every sample exactly once. A request whose
server dies is sent again, to another; seeds make its answer the same. A lost server is used again only once it is
healthy and holds the others' policy version and weights, or a weight sync has reached it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from nopsd.config import Config, ServerConfig
from nopsd.errors import ServerError, StaleWeightsError, UserError
from nopsd.keys import server_key
from nopsd.rollout.background import Background, all_at_once
from nopsd.rollout.client import DeadlineError, FailedError, RolloutClient, UnansweredError
from nopsd.rollout.served_weights import check_same_weights
from nopsd.rollout.service import SEQUENCES_IN_FLIGHT, Finished, Progress, RolloutService
from nopsd.rollout.types import Rollout
from nopsd.rollout.watch import PROBE_TIMEOUT_S, Watch

RETRY_DELAYS_S = (0.5,)  # at one server; then the request goes to another
CALL_AGAIN = 3  # servers that may fail one request before the request is taken as the cause
CHECK_WAIT_S = 5.0  # for checking the weights of a server that has come back; after that the next call asks again
VERSION_S = 60.0  # for reporting a version, where server.stall_timeout_s is 0
URL_VARIABLE = "NOPSD_SERVER_URL"  # the servers that ranks use, joined by commas
T = TypeVar("T")
log = logging.getLogger(__name__)


def server_urls(config: Config) -> list[str]:
    """Servers that run already: those of the environment, which the launching command sets, or of the configuration."""
    listed = os.environ.get(URL_VARIABLE) or ",".join(config.rollout.urls) or config.server.url or ""
    return [url.strip() for url in listed.split(",") if url.strip()]


def connect(config: ServerConfig, urls: Sequence[str] = (), hedge_s: float | None = None) -> RolloutPool:
    """A checked client of servers that run already.

    Args:
        config: `server.url` and its key, timeouts and window.
        urls: The servers; empty: that of `server.url`.
        hedge_s: Seconds after which a request that isn't answered also goes to a second server; None: never.

    Raises:
        ServerError: A server can't be reached, or isn't the vLLM that is needed.
    """
    addresses = list(dict.fromkeys(u.rstrip("/") for u in (urls or [config.url or ""]) if u))
    if not addresses:
        raise UserError("server.url is null: give the URL of a running server, or let the launcher start one")
    pool = pool_of(addresses, server_key(config.api_key), config, hedge_s)
    pool.check()
    return pool


def pool_of(urls: Sequence[str], key: str | None, config: ServerConfig, hedge_s: float | None = None) -> RolloutPool:
    """An unchecked pool; one of a single server tries that one for longer."""
    delays = RETRY_DELAYS_S if len(urls) > 1 else None
    clients = [RolloutClient(url, key, config.request_timeout_s, delays, config.sleep) for url in urls]
    return RolloutPool(clients, config.stall_timeout_s, hedge_s)


@dataclass
class _Member:
    client: RolloutClient
    in_flight: int = 0  # sequences
    lost: str | None = None  # why


class RolloutPool(RolloutService):
    """Made by `connect`. Thread-safe; the servers have one key."""

    def __init__(
        self, clients: Sequence[RolloutClient], stall_timeout_s: float = 0.0, hedge_s: float | None = None
    ) -> None:
        self._members = [_Member(client) for client in clients]
        self._stall_timeout_s, self._hedge_s = stall_timeout_s, hedge_s
        self._changed = threading.Condition()
        self._checks: dict[str, Background | None] = {}  # of lost servers that came back, under way
        self.url = ",".join(client.url for client in clients)
        self.api_key = clients[0].api_key

    def close(self) -> None:
        for member in self._members:
            member.client.close()

    def check(self) -> None:
        """ServerError unless all servers are healthy and take our key; StaleWeightsError unless they serve alike."""
        _, failures = all_at_once(lambda c: c.check(), self.servers(), sum(RETRY_DELAYS_S) + 60.0)
        if failures:
            raise failures[0][1]
        self.policy_version()
        first, *others = self.servers()
        for other in others:
            check_same_weights(first, other)

    # ------------------------------------------------------------------ the service of several

    def servers(self) -> list[RolloutClient]:
        with self._changed:
            return [m.client for m in self._members if m.lost is None]

    def policy_versions(self) -> dict[str, int]:
        """Of the servers in use. One that does not answer is lost."""
        if not self.servers():
            raise self._none_left()
        timeout_s = self._stall_timeout_s or VERSION_S
        # The requests' own deadline comes first: its error names the server.
        versions, failures = all_at_once(lambda c: c.held_version(timeout_s), self.servers(), 2 * timeout_s + VERSION_S)
        for server, error in failures:
            if not isinstance(error, (UnansweredError, FailedError)):
                raise error
            self.drop(server, error)
        return {server.url: version for server, version in versions}

    def call(self, ask: Callable[[RolloutClient], T], sequences: int = 1) -> T:
        """Ask the least loaded server, and another if it fails to answer.

        Args:
            ask: Given a server's client.
            sequences: How many sequences the server will run for it.

        Raises:
            ServerError: No server is left, each lost one named; or CALL_AGAIN servers failed.
        """
        for attempt in range(1, CALL_AGAIN + 1):
            member = self._take(sequences)
            try:
                return self._ask(member, ask, sequences)
            except (UnansweredError, FailedError) as error:
                if not self._is_server_fault(member, error) and (
                    attempt == CALL_AGAIN or isinstance(error, FailedError)
                ):
                    raise
                failure = error
            finally:
                self._release(member, sequences)
        raise ServerError(f"{CALL_AGAIN} rollout servers in turn failed on one request; the last: {failure}")

    def drop(self, server: RolloutClient, error: Exception) -> None:
        """Use `server` no more; ServerError naming each lost server if none is left."""
        self._lose(server, str(error))
        if not self.servers():
            raise self._none_left() from error

    def returning(self) -> list[RolloutClient]:
        """Lost servers that answer again; they may hold any weights."""
        with self._changed:
            lost = [m.client for m in self._members if m.lost is not None]
        healthy, _ = all_at_once(lambda c: c.is_healthy(PROBE_TIMEOUT_S), lost, 2 * PROBE_TIMEOUT_S)
        return [server for server, answers in healthy if answers]

    def readmit(self, server: RolloutClient) -> None:
        """Use a lost server again: the caller has made sure of its weights."""
        with self._changed:
            for member in self._members:
                if member.client is server:
                    member.lost = None
            self._changed.notify_all()
        log.warning("the rollout server at %s is back, with the right weights: it is used again", server.url)

    def generate(
        self,
        prompts: Sequence[list[int]],
        uids: Sequence[str],
        sampling: object,
        seed: int,
        expected_version: int | None = None,
        logprobs: bool = False,
        progress: Progress | None = None,
        finished: Finished | None = None,
    ) -> list[list[Rollout]]:
        """As RolloutService.generate; servers that hang are noticed meanwhile, and sleep afterwards if they can."""
        self._readmit()
        with self._watch():
            rows = super().generate(prompts, uids, sampling, seed, expected_version, logprobs, progress, finished)  # type: ignore[arg-type]
        for server, error in all_at_once(lambda c: c.sleep(), self.servers(), self._stall_timeout_s or VERSION_S)[1]:
            self.drop(server, error)
        return rows

    def score(self, prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> list[list[float]]:
        """As RolloutService.score; servers that hang are noticed meanwhile."""
        with self._watch():
            return super().score(prompts, responses)

    # ------------------------------------------------------------------ routing

    def _watch(self) -> Watch:
        return Watch(self._busy, self._lose, self._stall_timeout_s, lambda: len(self.servers()) == 1)

    def _busy(self) -> list[RolloutClient]:
        with self._changed:
            return [m.client for m in self._members if m.lost is None and m.in_flight]

    def _take(self, sequences: int) -> _Member:
        """The least loaded server, once it has room; one that is idle takes any request."""
        with self._changed:
            while True:
                alive = [m for m in self._members if m.lost is None]
                if not alive:
                    raise self._none_left()
                least = min(alive, key=lambda m: m.in_flight)
                if not least.in_flight or least.in_flight + sequences <= SEQUENCES_IN_FLIGHT:
                    least.in_flight += sequences
                    return least
                self._changed.wait()

    def _release(self, member: _Member, sequences: int) -> None:
        with self._changed:
            member.in_flight -= sequences
            self._changed.notify_all()

    def _ask(self, member: _Member, ask: Callable[[RolloutClient], T], sequences: int) -> T:
        """In a thread, which is abandoned if the server is found dead meanwhile, or if a second server, asked for the
        same after `hedge_s`, answers first: seeds make both answers the same, and one of them is returned."""
        answer = Background(lambda: ask(member.client))
        second: Background | None = None
        began, hedge_s = time.monotonic(), self._hedge_s
        while not answer.wait(0.5 if hedge_s is None else min(0.5, hedge_s / 4)):
            if member.lost is not None:
                raise UnansweredError(f"the server at {member.client.url} was lost: {member.lost}")
            if hedge_s is not None and second is None and time.monotonic() - began > hedge_s:
                second = self._ask_another(member, ask, sequences)
            if second is not None and second.succeeded():
                answered: T = second.result(0)
                return answered
        value: T = answer.result(0)
        return value

    def _ask_another(self, member: _Member, ask: Callable[[RolloutClient], T], sequences: int) -> Background | None:
        """The least loaded of the other servers, if it has room at once."""
        with self._changed:
            others = [m for m in self._members if m.lost is None and m is not member]
            other = min(others, key=lambda m: m.in_flight, default=None)
            if other is None or other.in_flight + sequences > SEQUENCES_IN_FLIGHT:
                return None
            other.in_flight += sequences

        def run() -> T:
            try:
                return ask(other.client)
            finally:
                self._release(other, sequences)

        return Background(run)

    def _is_server_fault(self, member: _Member, error: ServerError) -> bool:
        """Whether a failure was the server's; if so it is used no more."""
        hangs = isinstance(error, DeadlineError)  # /health may well be answered while the engine hangs
        if member.lost is None and (hangs or not member.client.is_healthy(PROBE_TIMEOUT_S)):
            self._lose(member.client, str(error))
        return member.lost is not None

    def _lose(self, server: RolloutClient, reason: str) -> None:
        with self._changed:
            (member,) = [m for m in self._members if m.client is server]
            known, member.lost = member.lost is not None, member.lost or reason
            left = sum(m.lost is None for m in self._members)
            self._changed.notify_all()
        if not known:
            log.warning("the rollout server at %s is lost (%s); going on with %d", server.url, reason, left)

    def _none_left(self) -> ServerError:
        lost = "; ".join(f"{m.client.url} ({m.lost})" for m in self._members)
        return ServerError(f"no rollout server is left: {lost}: see their logs, restart them and run the command again")

    # ------------------------------------------------------------------ equal weights

    def _readmit(self) -> None:
        """Use lost servers again that hold what the others hold. A check that takes long goes on for the next call."""
        if all(member.lost is None for member in self._members) or not self.servers():
            return
        for server in self.returning():
            check, self._checks[server.url] = self._checks.get(server.url), None
            if check is None:
                check = Background(lambda server=server: self._version_held(server))  # type: ignore[misc]
                check.wait(CHECK_WAIT_S)
            if not check.done():
                self._checks[server.url] = check
            elif self._still_holds(server, check):
                self.readmit(server)

    def _version_held(self, server: RolloutClient) -> int:
        """The version that `server` holds; a ServerError if its weights aren't those of the servers in use."""
        first = self.servers()[0]
        version = first.held_version()
        if server.held_version() != version:
            raise StaleWeightsError(f"the server at {server.url} holds another version than {version}")
        check_same_weights(first, server)
        return version

    def _still_holds(self, server: RolloutClient, check: Background) -> bool:
        """Whether a check that has ended was passed, and nothing has moved on since."""
        try:
            version = check.result(0)
            return {server.held_version(), *self.policy_versions().values()} == {version}
        except ServerError as error:
            log.warning("the rollout server at %s answers again and isn't used: %s", server.url, error)
            return False
