"""Group-relative policy optimisation with label-free rewards (GRPO, arXiv 2402.03300).

    y_1 … y_n ← π_θ(·|x) from the server; r_i label-free; A_i = (r_i − mean)/(std + ε);
    L = −(1/Σ|y|) Σ_i Σ_t min(ρ A_i, clip(ρ) A_i) + β k3(π_θ ‖ π_ref)

Logged besides `algorithms.tokens`:

    reward_mean, reward_std       over the step's responses (std with n − 1, as TRL's)
    zero_advantage_share          of the groups, those with all rewards equal: nothing is learnt from them
    majority_share, unparsed_share    of grpo.reward=majority: the vote's share of a group; answers that can't be read
    ratio, clip_frac              mean π_θ/π_old; share of the tokens whose gradient the clip takes away
    base_kl                       k3 estimate of KL(π_θ ‖ base), with grpo.kl_coef (nats)
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nopsd.config import Config, shaping
from nopsd.data.reading import AnswerReader
from nopsd.data.records import Question, questions_hash
from nopsd.engine.distributed import Ranks
from nopsd.engine.ds_config import role_configs
from nopsd.engine.ema import ShardedEma
from nopsd.engine.frozen import load_frozen
from nopsd.engine.lora import computing_with
from nopsd.engine.sequence_parallel import SequenceParallel, split_sequences
from nopsd.errors import ConfigError, DataError
from nopsd.files import sha256_json
from nopsd.signals.statistics import NAMES
from nopsd.train.algorithms.rewards import (
    Rewards,
    certainty_rewards,
    group_advantages,
    majority_rewards,
    zero_share,
)
from nopsd.train.algorithms.tokens import TokenAlgorithm, load_token_engine, own_statistics
from nopsd.train.batches import Example, MicroBatch
from nopsd.train.losses.grpo import GrpoLoss
from nopsd.train.losses.head import gathered_weight, response_hidden
from nopsd.train.losses.token_head import statistics_of
from nopsd.train.planning import check_budget
from nopsd.train.run import Step, Targets, TrainingInputs, TrainingRun

NLL = NAMES.index("seq_nll")


@dataclass(kw_only=True)
class Grpo(TokenAlgorithm):
    """`questions`: by uid; they say how an answer is read from a response's text, and hold no answer themselves.

    `reader`: of answers. `reference`: with grpo.kl_coef above 0 (`load` sets it).
    """

    questions: Mapping[str, Question]
    reader: AnswerReader = AnswerReader()
    reference: Reference | None = None

    @property
    def loss_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Of `GrpoLoss.logged_values`."""
        return ("ratio", "clip_frac") + ("base_kl",) * (self.reference is not None)

    def check(self, inputs: TrainingInputs) -> None:
        """Groups that can be compared, a ratio to the policy that sampled, and prompts of all questions."""
        check_config(inputs.config)
        selected, prompts = inputs.selected, inputs.student_prompts
        if not selected:
            raise DataError("no question was selected: raise select.fraction or give more questions")
        for uid in selected:
            if uid not in prompts or (inputs.config.grpo.reward == "majority" and uid not in self.questions):
                raise DataError(
                    f"question {uid} was selected but has no prompt, or is not in the pool: run select again"
                )
        lengths = [len(prompts[uid]) for uid in selected]
        train = inputs.config.train
        check_budget(train.micro_tokens, min(lengths), max(lengths), train.max_response)

    def identity(self, inputs: TrainingInputs) -> dict[str, Any]:
        """The section, the prompts and, where answers are read, the questions."""
        uids = sorted(inputs.selected)
        found: dict[str, Any] = {
            "grpo": shaping(inputs.config, "grpo"),
            "prompts": sha256_json([[uid, inputs.student_prompts[uid]] for uid in uids]),
        }
        if inputs.config.grpo.reward == "majority":
            found["questions"] = questions_hash([self.questions[uid] for uid in uids])
            found["think_open"] = self.reader.think_open
        return found

    def load(self, inputs: TrainingInputs, parallel: SequenceParallel) -> tuple[Any, ShardedEma | None]:
        """The student; the reference stays here."""
        student = load_token_engine(inputs.config, inputs.model_path, inputs.ranks, parallel)
        self.reference = load_reference(inputs.config, inputs.model_path, student, inputs.ranks, parallel)
        return student, None

    def examples(self, run: TrainingRun, step: Step) -> list[Example]:
        """Each rollout under its question's uid; the ids go through untouched."""
        asked = [uid for uid in step.uids for _ in range(run.config.train.n)]
        pairs = zip(asked, step.rollouts, strict=True)
        return [Example(uid, r.prompt_ids, None, r.response_ids, r.logprobs) for uid, r in pairs]

    def targets(self, run: TrainingRun, step: Step) -> Targets:
        """Each micro-batch's loss: its rows' advantages, log-probs under the old policy and the reference."""
        grpo, n = run.config.grpo, run.config.train.n
        with step.clock("reward"):
            rewards = self.rewards(run, step)
            advantages = group_advantages(rewards.values, n, grpo.epsilon)
        with step.clock("reference"):
            references: Sequence[Tensor | None] = [None] * len(step.batches)
            if self.reference is not None:
                references = [self.reference.logprobs(batch) for batch in step.batches]
            advantage_S = torch.tensor(advantages, device=run.ranks.device)
            served = grpo.old_policy == "served"
            losses = [
                GrpoLoss(
                    advantage_S[batch.example_N],
                    batch.served_N if served else None,
                    reference_N,
                    grpo.clip,
                    grpo.kl_coef,
                )
                for batch, reference_N in zip(step.batches, references, strict=True)
            ]
        metrics = {
            "reward_mean": statistics.fmean(rewards.values),
            "reward_std": statistics.stdev(rewards.values),
            "zero_advantage_share": zero_share(rewards.values, n),
            **rewards.metrics,
        }
        return Targets(losses, metrics)

    def rewards(self, run: TrainingRun, step: Step) -> Rewards:
        """`grpo.reward` of each rollout, equal on all ranks. Collective."""
        if run.config.grpo.reward == "majority":
            return majority_rewards(step.uids, step.rollouts, run.config.train.n, self.questions, self.reader)
        found = [own_statistics(run.student, batch) for batch in step.batches]
        return certainty_rewards(len(step.rollouts), step.batches, found, run.ranks)


def check_config(config: Config) -> None:
    """ConfigError for a group that can't be compared, or a ratio to another policy than the one that sampled."""
    train = config.train
    if train.n < 2:
        raise ConfigError(f"train.n={train.n}: GRPO compares several responses to one question: set train.n=8, say")
    if train.temperature != 1.0:
        raise ConfigError(
            f"train.temperature={train.temperature:g}: GRPO's ratio is to the policy at temperature 1: set "
            "train.temperature=1"
        )


@dataclass(frozen=True)
class Reference:
    """The frozen base model's log-probs. `engine`: a second ZeRO-3 engine; None: `student` without its adapters."""

    student: Any
    engine: Any | None
    chunk: int | None = None

    def logprobs(self, batch: MicroBatch) -> Tensor:
        """[N], in tiles, no gradient. Collective."""
        if self.engine is None:
            with computing_with(self.student.module.lm, None):
                return -own_statistics(self.student, batch)[NLL]
        side = batch.student
        hidden_NH = response_hidden(self.engine, side.ids_BT, side.rows_N, side.segments)
        with gathered_weight(self.engine) as weight_VH:
            return -statistics_of(hidden_NH, batch.targets_N, weight_VH.detach(), self.chunk)[NLL]


def load_reference(
    config: Config, model_path: Path, student: Any, ranks: Ranks, parallel: SequenceParallel
) -> Reference | None:
    """None without a KL term; loads the base model a second time only where its weights are not in the student."""
    if config.grpo.kl_coef <= 0:
        return None
    engine = None
    if not config.train.lora.r:
        _, frozen = role_configs(config, ranks.device.type)
        engine = load_frozen(
            str(model_path),
            config.model.dtype,
            frozen,
            config.model.trust_remote_code,
            packing=config.train.packing,
            prepare=lambda lm: split_sequences(lm, parallel),
        )
    return Reference(student, engine, config.distill.logit_chunk)
