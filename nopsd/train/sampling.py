"""On-policy responses of each step, the same on every rank: y ← sample from π_θ(·|x); and the proof of their weights.

Rank 0 asks the server for the whole step, so only its host must reach it, and broadcasts the token ids. Seeds derive
from (seed, step, uid): a resumed run samples what the unbroken one would have.

Each rollout carries the server's log-probs; the training forward gives the trainer's own for the same tokens, so every
step compares all of them at no cost, before the weights move (`check_gap`). What that can't cover (the sync after the
last step; a distillation temperature other than 1; responses sampled ahead, by other weights than those that train) is
probed with one short response (`serve`).

With `train.ahead: 1` (one step off-policy) the server samples step t+1 while step t trains, so by the
weights before step t: the first step's responses are of its own version, all later ones of the version before.
The loss is computed under the weights being trained all the same; `distill.is_clip` can weigh the difference.

With `rollout.partial` a step also goes on with responses that the one before left unfinished (nopsd.train.partial).
"""

from __future__ import annotations

import functools
import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from typing import Any

import torch

from nopsd.config import Config, SamplingConfig
from nopsd.engine.distributed import broadcast_from_rank0
from nopsd.errors import ServerError, StaleWeightsError
from nopsd.rollout.logprob_gap import Gap, GapBound
from nopsd.rollout.types import Rollout
from nopsd.train.batches import batch_uids
from nopsd.train.export import probe_logits
from nopsd.train.metrics import Clock
from nopsd.train.partial import Partial, continued
from nopsd.train.run import Step, TrainingRun

PROBE_TOKENS = 64
FEW = 3.0  # the mean of a short response's gaps varies so much more than that of a step's
SEEDS = 1_000_003  # steps have seeds of their own, for the client to combine with the uid
PENDING, PARTIAL = "pending", "partial"  # their names among a checkpoint's extras


class Sampler:
    """The rollouts of one step after the other: `sample(t)`, `begin(t + 1)`, the training of step t, `finish()`.

    Without `train.ahead`, `begin` and `finish` do nothing; for an algorithm that isn't on-policy nothing does.
    """

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.pending: list[Rollout] = []  # sampled ahead, for step `pending_step`
        self.pending_step = -1
        self._answer: Future[list[dict[str, Any]]] | None = None  # on rank 0, while the next step is being sampled
        self._begun_step = -1
        self._given_up = threading.Event()
        train, share = run.config.train, run.config.rollout.partial
        self.partial = Partial(share, train.max_response, train.batch) if share else None
        if self.partial is not None:
            self.partial = self.partial.restored(run.extras.get(PARTIAL))
        if saved := run.extras.get(PENDING):
            self.pending, self.pending_step = [Rollout(**fields) for fields in saved["rollouts"]], saved["step"]
            check_rollouts(self.pending, self.pending_step - 1)

    def sample(self, step: Step) -> None:
        """Give the step `train.n` responses to each of its questions, in order, with log-probs. Collective.

        Raises StaleWeightsError unless weights of version `step` gave them, or, sampled ahead, of the version before;
        ServerError on an aborted one.
        """
        if not self.run.algorithm.on_policy:
            return
        if self.pending_step == step.number:
            step.rollouts, self.pending, self.pending_step = self.pending, [], -1
        else:
            step.rollouts = self._sampled_now(step)
        if self.partial is not None:
            step.uids = [*step.uids, *(uid for uid, _ in self.partial.unfinished)]
            self.partial.end_step(step.uids, step.rollouts)

    def _sampled_now(self, step: Step) -> list[Rollout]:
        """The step's responses; in the meantime the algorithm does what needs none."""
        run, number = self.run, step.number
        work = run.algorithm.meanwhile(run, step)
        sample = functools.partial(ask, run, number, number, partial=self.partial)
        if work is not None:
            asked = in_background(lambda: sample(progress=self._check_wanted)) if run.ranks.is_main else None
            work()
        with step.clock("rollout"):
            if work is None:
                answers = broadcast_from_rank0(run.ranks, sample)
            else:
                answers = broadcast_from_rank0(run.ranks, lambda: asked.result() if asked else [])
        return [Rollout(**fields) for fields in answers]

    def begin(self, number: int) -> None:
        """Have step `number` sampled from now on, by the weights served now: of the version before."""
        train = self.run.config.train
        if not train.ahead or number >= train.steps or not self.run.algorithm.on_policy:
            return
        self._begun_step = number
        if self.run.ranks.is_main:
            self._answer = in_background(lambda: ask(self.run, number, number - 1, self._check_wanted))

    def finish(self, clock: Clock) -> None:
        """Wait for what `begin` started, before weights are pushed; its error is raised on every rank. Collective."""
        if self._begun_step < 0:
            return
        with clock("rollout"):
            answers = broadcast_from_rank0(self.run.ranks, lambda: self._answer.result() if self._answer else [])
        self.pending, self.pending_step = [Rollout(**fields) for fields in answers], self._begun_step
        self._answer, self._begun_step = None, -1

    def extras(self) -> dict[str, Any]:
        """What a checkpoint must hold so that the next step trains on the same responses after a resume."""
        kept = {PARTIAL: self.partial.state()} if self.partial is not None else {}
        if not self.pending:
            return kept
        return {PENDING: {"step": self.pending_step, "rollouts": [asdict(rollout) for rollout in self.pending]}}

    def _check_wanted(self, *_: object, **__: object) -> None:
        if self._given_up.is_set():
            raise ServerError("the next step's rollouts were given up: the run is ending")

    def close(self) -> None:
        """Give up what is still being sampled."""
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


def request_names(uids: Sequence[str]) -> list[str]:
    """Names to seed by: the uid, and where an epoch's end brings it a second time, a name of its own."""
    seen: Counter[str] = Counter()
    names = []
    for uid in uids:
        seen[uid] += 1
        names.append(uid if seen[uid] == 1 else f"{uid}#{seen[uid]}")
    return names


def ask(
    run: TrainingRun,
    step: int,
    version: int,
    progress: Callable[..., None] | None = None,
    partial: Partial | None = None,
) -> list[dict[str, Any]]:
    """The responses of a step, as JSON. On rank 0.

    Args:
        run: Its questions, and the servers' client.
        step: From 0.
        version: Of the weights that sample, which is checked.
        progress: Called while they are sampled.
        partial: Responses that are gone on with, after the step's own; None: all are sampled to their ends.
    """
    train = run.config.train
    uids = batch_uids(run.selected, step, train.batch, train.seed, run.retained, train.retain.share)
    if run.replay is not None:
        replayed = run.replay.rollouts(step, version, uids, run.student_prompts, train.n)
        return [asdict(rollout) for rollout in replayed]
    sampling: Any = SamplingConfig(train.n, train.temperature, train.top_p, train.top_k, train.max_response)
    prompts, before = [run.student_prompts[uid] for uid in uids], list[Rollout | None]()
    if partial is not None:
        uids, limit = [*uids, *(uid for uid, _ in partial.unfinished)], partial.limit()
        before = [*([None] * len(prompts)), *(rollout for _, rollout in partial.unfinished)]
        prompts = [run.student_prompts[uid] + (old.response_ids if old else []) for uid, old in zip(uids, before)]
        written = [len(old.response_ids) if old else 0 for old in before]
        sampling = [replace(sampling, max_new=min(limit, train.max_response - there)) for there in written]
    rows = run.client.generate(
        prompts,
        request_names(uids),
        sampling,
        train.seed * SEEDS + step,
        expected_version=version,
        logprobs=True,
        **({} if progress is None else {"progress": progress}),
    )
    rollouts = [rollout for row in rows for rollout in row]
    check_rollouts(rollouts, version)
    if partial is not None:
        asked = zip(before, rollouts, uids, strict=True)
        rollouts = [continued(old, r, run.student_prompts[uid], train.max_response) for old, r, uid in asked]
    return [asdict(rollout) for rollout in rollouts]


def check_rollouts(rollouts: Sequence[Rollout], version: int) -> None:
    """StaleWeightsError for a response of another version, ServerError for an aborted one."""
    for rollout in rollouts:
        if rollout.policy_version != version:
            raise StaleWeightsError(
                f"a response to {rollout.uid} came from policy version {rollout.policy_version}, expected {version}: "
                "another run may be using the server"
            )
        if rollout.finish_reason == "abort":
            raise ServerError(f"the response to {rollout.uid} was aborted on the server: resume the run")


def checked_by(config: Config, version: int) -> str | None:
    """What verifies the sync of this version: None where it isn't due; "step", if a step trains on responses that
    these weights sampled, at a temperature of 1; else "probe"."""
    train = config.train
    if train.sync_check_every <= 0 or (version % train.sync_check_every and version != train.steps):
        return None
    sampled_ahead = train.ahead > 0 and version > 0
    return "step" if config.distill.temperature == 1.0 and version < train.steps and not sampled_ahead else "probe"


def check_gap(config: Config, bound: GapBound, gap: Gap, version: int) -> None:
    """Compare served and trained log-probs of this step's responses.

    Args:
        config: Says what is checked, and when.
        bound: What rounding explains.
        gap: As measured, in nats.
        version: Of the weights that sampled.

    Raises:
        StaleWeightsError: They are farther apart.
    """
    if checked_by(config, version) != "step" or not (passed := bound.passed_by(gap)):
        return
    raise StaleWeightsError(
        f"step {version}: served and trained log-probs differ by {passed}: the server doesn't hold the trainer's "
        "weights, or has another dtype (server.dtype, model.dtype); train.sync_tolerance states another mean"
    )


def serve(run: TrainingRun, rollouts: Sequence[Rollout], version: int) -> None:
    """Have the server sample by the present weights; where no step can verify that, compare served and trained
    log-probs of one short response, of `rollouts` the first. Collective."""
    if run.sync is None:  # nothing is served
        return
    if run.config.server.sleep and torch.cuda.is_available():
        torch.cuda.empty_cache()  # the server wakes, and takes its share of the GPU back
    run.sync.push(version=version)
    if not rollouts or checked_by(run.config, version) != "probe":
        return
    rollout, response = rollouts[0], rollouts[0].response_ids[:PROBE_TOKENS]
    if not response:
        return
    from nopsd.rollout.served_weights import verify_served

    logits_TV = probe_logits(run.student.module.lm, rollout.prompt_ids + response)
    rows_TV = logits_TV[len(rollout.prompt_ids) - 1 : -1].log_softmax(-1)
    own = rows_TV.gather(1, torch.tensor(response)[:, None])[:, 0].tolist()
    uncertain = sum(1 - math.exp(value) for value in own) / len(own)
    gap = broadcast_from_rank0(
        run.ranks,
        lambda: verify_served(
            run.client, [rollout.prompt_ids], [response], [own], run.gap_bound.high, FEW * run.gap_bound.mean(uncertain)
        ),
    )
    assert math.isfinite(gap)
