"""On-policy responses of each step, the same on every rank (SPEC §6.2: y ← sample from π_θ(·|x)).

Rank 0 asks the server for the whole step, so only its host must reach it, and tells the other ranks the
token ids. Seeds derive from (seed, step, uid): a resumed run samples what the unbroken one would have.

With `train.ahead: 1` (one-step-off: issue 4, "Overlap") the server samples step t+1 while step t trains, so by the
weights before step t: the first step's responses are of its own version, all later ones of the version before.
The loss is computed under the weights being trained all the same; `distill.is_clip` can weigh the difference.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any, Protocol

from nopsd.config import SamplingConfig, TrainConfig
from nopsd.engine.broadcast import broadcast_from_rank0
from nopsd.engine.distributed import Ranks
from nopsd.errors import ServerError, StaleWeightsError
from nopsd.rollout.types import Rollout
from nopsd.train.batches import batch_uids
from nopsd.train.state import TrainingRun

PENDING = "pending"  # its name among a checkpoint's extras


class Client(Protocol):
    """What training asks of `nopsd.rollout.client.RolloutClient`; `progress` only when it samples ahead."""

    def generate(
        self,
        prompts: Sequence[list[int]],
        uids: Sequence[str],
        sampling: SamplingConfig,
        seed: int,
        expected_version: int | None = None,
        logprobs: bool = False,
        progress: Callable[..., None] | None = None,
    ) -> list[list[Rollout]]: ...


class Sampler:
    """The rollouts of one step after the other: `of(t)`, `begin(t + 1)`, the training of step t, `finish()`.

    Without `train.ahead`, `begin` and `finish` do nothing. Use as a context manager: on leaving it, what is still
    being sampled is given up.
    """

    def __init__(self, d: TrainingRun) -> None:
        self.d, self.train = d, d.config.train
        self.held: list[Rollout] = []  # sampled ahead, for step `held_for`
        self.held_for = -1
        self._answer: Future[list[dict[str, Any]]] | None = None  # on rank 0, while the next step is being sampled
        self._begun_for = -1
        self._given_up = threading.Event()
        if pending := d.extras.get(PENDING):
            self.held, self.held_for = [Rollout(**fields) for fields in pending["rollouts"]], pending["step"]
            check_rollouts(self.held, self.held_for - 1)

    def of(self, step: int) -> list[Rollout]:
        """`train.n` responses to each of the step's questions, in order, with log-probs. Collective.

        Raises StaleWeightsError unless weights of version `step` gave them, or, sampled ahead, of the version before;
        ServerError on an aborted one.
        """
        if self.held_for == step:
            held, self.held, self.held_for = self.held, [], -1
            return held
        d = self.d
        return sample_step(d.client, self.uids(step), d.student_prompts, self.train, d.seed, step, d.ranks)

    def begin(self, step: int) -> None:
        """Have `step` sampled from now on, by the weights served now: of the version before."""
        if not self.train.ahead or step >= self.train.steps:
            return
        self._begun_for = step
        if self.d.ranks.is_main:
            self._answer = in_background(lambda: self._ask(step))

    def finish(self) -> None:
        """Wait for what `begin` started, before weights are pushed; its error is raised on every rank. Collective."""
        if self._begun_for < 0:
            return
        answers = broadcast_from_rank0(self.d.ranks, lambda: self._answer.result() if self._answer else [])
        self.held, self.held_for = [Rollout(**fields) for fields in answers], self._begun_for
        self._answer, self._begun_for = None, -1

    def extras(self) -> dict[str, Any]:
        """What a checkpoint must hold so that the next step trains on the same responses after a resume."""
        if not self.held:
            return {}
        return {PENDING: {"step": self.held_for, "rollouts": [asdict(rollout) for rollout in self.held]}}

    def uids(self, step: int) -> list[str]:
        return batch_uids(self.d.selected, step, self.train.batch, self.d.seed)

    def _ask(self, step: int) -> list[dict[str, Any]]:
        def go_on(*_: object, **__: object) -> None:
            if self._given_up.is_set():
                raise ServerError("the next step's rollouts were given up: the run is ending")

        d = self.d
        return ask(
            d.client, self.uids(step), d.student_prompts, self.train, d.seed, step, version=step - 1, progress=go_on
        )

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *exc: object) -> None:
        self._given_up.set()  # the thread's requests that have not been sent won't be: it ends soon


def in_background(call: Callable[[], Any]) -> Future[Any]:
    """`call()` in a thread that doesn't hold up the end of the process; what it raises comes out of `result()`."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # raised again where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, name="rollouts ahead", daemon=True).start()
    return future


def sampling_of(config: TrainConfig) -> SamplingConfig:
    return SamplingConfig(config.n, config.temperature, config.top_p, config.top_k, config.max_response)


def request_names(uids: Sequence[str]) -> list[str]:
    """Names to seed by: the uid, and where an epoch's end brings it a second time, a name of its own."""
    seen: Counter[str] = Counter()
    names = []
    for uid in uids:
        seen[uid] += 1
        names.append(uid if seen[uid] == 1 else f"{uid}#{seen[uid]}")
    return names


def sample_step(
    client: Client,
    uids: Sequence[str],
    student_prompts: Mapping[str, list[int]],
    config: TrainConfig,
    seed: int,
    step: int,
    ranks: Ranks,
) -> list[Rollout]:
    """`train.n` responses to each uid, in order, with log-probs, by weights of version `step`. Collective."""
    told = broadcast_from_rank0(ranks, lambda: ask(client, uids, student_prompts, config, seed, step, version=step))
    return [Rollout(**fields) for fields in told]


def ask(
    client: Client,
    uids: Sequence[str],
    student_prompts: Mapping[str, list[int]],
    config: TrainConfig,
    seed: int,
    step: int,
    version: int,
    progress: Callable[..., None] | None = None,
) -> list[dict[str, Any]]:
    """The responses of `step`, checked to be of weights of `version`, as JSON."""
    prompts = [student_prompts[uid] for uid in uids]
    more: dict[str, Any] = {} if progress is None else {"progress": progress}
    rows = client.generate(
        prompts,
        request_names(uids),
        sampling_of(config),
        step_seed(seed, step),
        expected_version=version,
        logprobs=True,
        **more,
    )
    rollouts = [rollout for row in rows for rollout in row]
    check_rollouts(rollouts, version)
    return [asdict(rollout) for rollout in rollouts]


def step_seed(seed: int, step: int) -> int:
    """One integer of (seed, step), for the client to combine with the uid."""
    return seed * 1_000_003 + step


def check_rollouts(rollouts: Sequence[Rollout], version: int) -> None:
    for rollout in rollouts:
        if rollout.policy_version != version:
            raise StaleWeightsError(
                f"a response to {rollout.uid} came from policy version {rollout.policy_version}, expected {version}: "
                "another run may be using the server"
            )
        if rollout.finish_reason == "abort":
            raise ServerError(f"the response to {rollout.uid} was aborted on the server: resume the run")
