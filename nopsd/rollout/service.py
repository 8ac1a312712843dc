"""Sampling and scoring by one server (client.py) or by several with the same weights (pool.py).

In: prompts (ids), question uids, sampling settings, a seed. Out: `Rollout`s stamped with the policy version, or
log-probs of given responses. Seeds derive from (seed, uid, sample) alone, so that a response depends neither on what
it was batched with nor on the server that gave it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from nopsd.config import SamplingConfig
from nopsd.errors import StaleWeightsError, UserError
from nopsd.rollout.background import all_at_once
from nopsd.rollout.types import Rollout

if TYPE_CHECKING:
    from nopsd.rollout.client import RolloutClient

SEQUENCES_IN_FLIGHT = 256  # a server; it queues what exceeds its --max-num-seqs
REQUESTS_IN_FLIGHT = 64  # a server; each is a thread of ours
COUNTERS_S = 5.0  # for a server to give its counters
Progress = Callable[..., None]
Finished = Callable[[int, list[Rollout]], None]
T = TypeVar("T")


def request_seed(seed: int, uid: str) -> int:
    """Seed of a question's first sample (62 bits); sample i has this plus i, as vLLM counts.

    A function of (seed, uid) alone, so a response doesn't depend on what it was batched with.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}\0{uid}".encode()).digest()[:8], "big") >> 2


class RolloutService:
    """What the stages ask of the servers; thread-safe. Every failure is a ServerError that names the URL."""

    url: str  # several are joined by commas
    api_key: str | None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ implemented by client and pool

    def servers(self) -> list[RolloutClient]:
        """Those in use."""
        raise NotImplementedError

    def policy_versions(self) -> dict[str, int]:
        """URL -> version of the weights being served there; 0 for those the server was started with."""
        raise NotImplementedError

    def call(self, ask: Callable[[RolloutClient], T], sequences: int = 1) -> T:
        """`ask` of a server that has room for so many sequences more."""
        raise NotImplementedError

    def drop(self, server: RolloutClient, error: Exception) -> None:
        """Go on without `server`; raises `error` where there is no other."""
        raise NotImplementedError

    def returning(self) -> list[RolloutClient]:
        """Servers that were dropped and answer again; they may hold any weights."""
        return []

    def readmit(self, server: RolloutClient) -> None:
        """Use a dropped server again: the caller has made sure of its weights."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    # ------------------------------------------------------------------ state

    def max_model_len(self) -> int:
        """Longest prompt plus response, in tokens, that every server takes."""
        return min(server.max_model_len() for server in self.servers())

    def queue_times(self) -> dict[str, tuple[float, float]]:
        """URL -> seconds that requests waited there before they were computed, and how many, since the server's start.
        One that gives no counters is left out: no run ends for them."""
        found, _ = all_at_once(lambda server: server.queue_time(COUNTERS_S), self.servers(), 2 * COUNTERS_S)
        return {server.url: waited for server, waited in found}

    def policy_version(self) -> int:
        """The version that all servers hold; StaleWeightsError naming those of another one."""
        return self._expect_version(None)

    def _expect_version(self, expected: int | None) -> int:
        versions = self.policy_versions()
        wanted = max(versions.values()) if expected is None else expected
        stale: Mapping[str, int] = {url: version for url, version in versions.items() if version != wanted}
        if stale:
            held = "; ".join(f"the server at {url} holds policy version {v}" for url, v in stale.items())
            raise StaleWeightsError(
                f"{held}, expected {wanted}: another run may be using it, or a weight sync was missed"
            )
        return wanted

    # ------------------------------------------------------------------ sampling

    def generate(
        self,
        prompts: Sequence[list[int]],
        uids: Sequence[str],
        sampling: SamplingConfig | Sequence[SamplingConfig],
        seed: int,
        expected_version: int | None = None,
        logprobs: bool = False,
        progress: Progress | None = None,
        finished: Finished | None = None,
    ) -> list[list[Rollout]]:
        """Sample responses, reproducibly: seeds derive from (seed, uid, sample).

        Args:
            prompts: Token ids.
            uids: The question of each prompt.
            sampling: `n` responses a prompt, temperature and its like; of all prompts, or of each (`n` alike).
            seed: Of the sampling.
            expected_version: Policy version that must be served; None: any.
            logprobs: Give the log-probs too, under the served model itself (before temperature and truncation).
            progress: Called with the prompts done and their total.
            finished: Called with a prompt's place and its responses as soon as it is answered, in this thread.

        Returns:
            The responses to each prompt, in the order of the prompts.

        Raises:
            StaleWeightsError: The weights aren't `expected_version` before or after, or changed meanwhile.
            UserError: A prompt and its response can't fit the servers' window.
        """
        each = [sampling] * len(prompts) if isinstance(sampling, SamplingConfig) else sampling
        self._refuse_misfits(prompts, uids, each)
        before, n = self._expect_version(expected_version), each[0].n if each else 1

        def one(i: int) -> list[Rollout]:
            # A question's samples go together: they share its prompt's keys and values (prefix cache).
            return self.call(lambda server: server.sample(prompts[i], uids[i], each[i], seed, before, logprobs), n)

        rows = self._concurrently(one, len(prompts), n, progress, finished)
        self._expect_version(before)
        return rows

    def score(self, prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> list[list[float]]:
        """Served log-probs of each response id given its prompt.

        Args:
            prompts: Token ids.
            responses: Token ids; with its prompt each must leave one position of the servers' window free.

        Returns:
            Nats; lists as long as the responses.
        """
        window = self.max_model_len()
        for prompt, response in zip(prompts, responses, strict=True):
            if len(prompt) + len(response) >= window:
                raise UserError(
                    f"{len(prompt) + len(response)} tokens can't be scored in the window of {window} at {self.url}: "
                    "raise server.max_model_len"
                )

        def one(i: int) -> list[float]:
            return self.call(lambda server: server.score_one(prompts[i], responses[i]))

        return self._concurrently(one, len(prompts), 1)

    def _refuse_misfits(
        self, prompts: Sequence[list[int]], uids: Sequence[str], each: Sequence[SamplingConfig]
    ) -> None:
        if each and each[0].temperature == 0 and each[0].n > 1:
            raise UserError(f"temperature=0 gives one response, n={each[0].n} asked: set n=1 or a temperature above 0")
        window = self.max_model_len()
        for uid, prompt, sampling in zip(uids, prompts, each, strict=True):
            if len(prompt) + sampling.max_new > window:
                raise UserError(
                    f"question {uid}: a prompt of {len(prompt)} tokens and max_new={sampling.max_new} exceed the "
                    f"window of {window} at {self.url}: raise server.max_model_len or lower max_new"
                )

    def _concurrently(
        self,
        one: Callable[[int], T],
        total: int,
        sequences: int,
        progress: Progress | None = None,
        finished: Callable[[int, T], None] | None = None,
    ) -> list[T]:
        """[one(0), ..., one(total - 1)], as many at a time as the servers take; the first failure ends the rest."""
        room = min(SEQUENCES_IN_FLIGHT // sequences, REQUESTS_IN_FLIGHT) * len(self.servers())
        pool = ThreadPoolExecutor(max(1, min(room, total)), thread_name_prefix="rollout")
        try:
            futures = {pool.submit(one, i): i for i in range(total)}
            for done, future in enumerate(as_completed(futures), 1):
                result = future.result()
                if finished is not None:
                    finished(futures[future], result)
                if progress is not None:
                    progress(done, total)
            return [f.result() for f in futures]
        finally:
            pool.shutdown(cancel_futures=True)
