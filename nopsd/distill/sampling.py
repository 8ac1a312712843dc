"""On-policy responses of one step, the same on every rank (SPEC §6.2: y ← sample from π_θ(·|x)).

Rank 0 asks the server for the whole step, so only its host must reach it, and tells the other ranks the
token ids. Seeds derive from (seed, step, uid): a resumed run samples what the unbroken one would have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from nopsd.config import SamplingConfig, TrainConfig
from nopsd.data.prompts import TeacherPrompt
from nopsd.distill.batches import Example
from nopsd.engine.distributed import Ranks
from nopsd.engine.from_main import from_main
from nopsd.errors import ServerError, StaleWeightsError
from nopsd.rollout.types import Rollout


class Client(Protocol):
    """What distillation asks of `nopsd.rollout.client.RolloutClient`."""

    def generate(
        self, prompts: Sequence[list[int]], uids: Sequence[str], sampling: SamplingConfig, seed: int,
        expected_version: int | None = None, logprobs: bool = False,
    ) -> list[list[Rollout]]: ...


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
    client: Client, uids: Sequence[str], student_prompts: Mapping[str, list[int]], config: TrainConfig, seed: int,
    step: int, ranks: Ranks,
) -> list[Rollout]:
    """`train.n` responses to each uid, in order, with log-probs. Collective.

    Raises StaleWeightsError unless weights of version `step` gave them; ServerError on an aborted one.
    """

    def ask() -> list[dict[str, Any]]:
        prompts = [student_prompts[uid] for uid in uids]
        rows = client.generate(
            prompts, request_names(uids), sampling_of(config), step_seed(seed, step), expected_version=step,
            logprobs=True,
        )
        rollouts = [rollout for row in rows for rollout in row]
        check_rollouts(rollouts, step)
        return [asdict(rollout) for rollout in rollouts]

    return [Rollout(**fields) for fields in from_main(ranks, ask)]


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


def pair(
    rollouts: Sequence[Rollout], uids: Sequence[str], samples: int, teacher_prompts: Mapping[str, TeacherPrompt]
) -> list[Example]:
    """Each rollout with both of its prompts; the response's ids go through untouched."""
    asked = [uid for uid in uids for _ in range(samples)]
    return [
        Example(uid, r.prompt_ids, teacher_prompts[uid].ids, r.response_ids, r.logprobs)
        for uid, r in zip(asked, rollouts, strict=True)
    ]
