"""Group-relative policy optimisation, the loop (SPEC §8.5; GRPO, arXiv 2402.03300).

    for each step: B ← questions; y_1 … y_n ← π_θ(·|x) from the server; r_i label-free; A_i = (r_i − mean)/(std + ε);
    L = −(1/Σ|y|) Σ_i Σ_t min(ρ A_i, clip(ρ) A_i) + β k3(π_θ ‖ π_ref); θ by AdamW, one step; server ← θ

Every rank runs it in step with the others. The server always holds version `step` while step `step` trains.
Logged besides `nopsd.train.token_step` and `nopsd.train.metrics`:

    reward_mean, reward_std       over the step's responses (std with n − 1, as TRL's)
    zero_advantage_share          of the groups, those with all rewards equal: nothing is learnt from them
    majority_share, unparsed_share    of grpo.reward=majority: the vote's share of a group; answers that can't be read
    ratio, clip_frac              mean π_θ/π_old; share of the tokens whose gradient the clip takes away
    kl_base                       k3 estimate of KL(π_θ ‖ base), with grpo.kl_coef (nats)
    staleness                     versions between the weights that sampled and those that train
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from nopsd.engine.student import lr_at, set_lr
from nopsd.rollout.types import Rollout
from nopsd.train.algorithms.advantages import group_advantages, zero_share
from nopsd.train.algorithms.grpo_state import Reinforcement
from nopsd.train.algorithms.rewards import Rewards, certainty_rewards, majority_rewards
from nopsd.train.batches import Example, MicroBatch
from nopsd.train.losses.grpo import GrpoLoss
from nopsd.train.metrics import Clock, response_metrics
from nopsd.train.sampling import Sampler
from nopsd.train.served import check_held, check_probe
from nopsd.train.steps import Steps, refuse_if_stopped
from nopsd.train.token_model import own_statistics
from nopsd.train.token_step import learn, micro_batches, step_row


def reinforce(run: Reinforcement, step: int = 0, skipped: int = 0) -> None:
    """Train from `step` (so many are done, `skipped` of them not taken) to `train.steps`, or to `run.guards.stopped`.

    Raises Stopped on all ranks, with the step finished and saved, if any was asked to end (`run.stop`).
    """
    train, grpo = run.config.train, run.config.grpo
    refuse_if_stopped(run, step)
    with Sampler(run) as samples:
        steps = Steps(run, skipped, samples.extras)
        run.sync.push(version=step)
        check_held(run, samples.held, step)
        while step < train.steps:
            clock, uids = Clock(), samples.uids(step)
            with clock("rollout"):
                rollouts = samples.of(step)
            samples.begin(step + 1)
            batches = micro_batches(run, examples_of(uids, rollouts, train.n))
            with clock("reward"):
                rewards = rewards_of(run, uids, rollouts, batches)
                advantages = group_advantages(rewards.values, train.n, grpo.epsilon)
            with clock("reference"):
                losses = losses_of(run, batches, advantages)
            with clock("student"):
                set_lr(run.student, lr_at(step, train))
                sums = learn(run, batches, losses, step)
            taken = run.student.was_step_applied()
            steps.skips.add(taken, step, uids, sums, run.ranks)
            with clock("rollout"):
                samples.finish()
            with clock("sync"):
                run.sync.push(version=step + 1)
                check_probe(run, rollouts[0], step + 1)
            row = step_row(run, step, steps.skips.total, taken, sums, clock)
            if not steps.close(step, row | reward_metrics(rewards, train.n) | rollout_metrics(rollouts, step)):
                return
            step += 1


def examples_of(uids: Sequence[str], rollouts: Sequence[Rollout], n: int) -> list[Example]:
    """Each rollout under its question's uid; the ids go through untouched."""
    asked = [uid for uid in uids for _ in range(n)]
    return [
        Example(uid, r.prompt_ids, None, r.response_ids, r.logprobs) for uid, r in zip(asked, rollouts, strict=True)
    ]


def rewards_of(
    run: Reinforcement, uids: Sequence[str], rollouts: Sequence[Rollout], batches: Sequence[MicroBatch]
) -> Rewards:
    """`grpo.reward` of each rollout, equal on all ranks. Collective."""
    if run.config.grpo.reward == "majority":
        return majority_rewards(uids, rollouts, run.config.train.n, run.questions, run.think_open)
    found = [own_statistics(run.student, batch) for batch in batches]
    return certainty_rewards(len(rollouts), batches, found, run.ranks)


def losses_of(run: Reinforcement, batches: Sequence[MicroBatch], advantages: Sequence[float]) -> list[GrpoLoss]:
    """Each micro-batch's loss: its rows' advantages, log-probs under the old policy and the reference. Collective."""
    grpo = run.config.grpo
    references: Sequence[Tensor | None] = [None] * len(batches)
    if run.reference is not None:
        references = run.reference.logprobs(batches)
    advantage_S = torch.tensor(advantages, device=run.ranks.device)
    served = grpo.old_policy == "served"
    return [
        GrpoLoss(advantage_S[batch.example_N], batch.served_N if served else None, reference_N, grpo.clip, grpo.kl_coef)
        for batch, reference_N in zip(batches, references, strict=True)
    ]


def reward_metrics(rewards: Rewards, n: int) -> dict[str, float]:
    return {
        "reward_mean": statistics.fmean(rewards.values),
        "reward_std": statistics.stdev(rewards.values),
        "zero_advantage_share": zero_share(rewards.values, n),
        **rewards.told,
    }


def rollout_metrics(rollouts: Sequence[Rollout], step: int) -> dict[str, float]:
    return {**response_metrics(rollouts), "staleness": step - rollouts[0].policy_version}
