"""On-policy self-adaptation without a teacher (OPSA, arXiv 2608.31046): the model's least likely tokens pushed down.

    y ← π_θ(·|x); S = the K = max(1, ⌊f n⌋) tokens of the lowest log p, of n; r = (H − H_min)/(H_max − H_min) over S;
    A = high + (low − high) r on S, 0 elsewhere; L = mean over responses of the mean over their tokens in S of −ρ A

ρ = π_θ/sg(π_θ) = 1, since a batch is trained on once. No reward, no vote, no teacher, no demonstration: what a teacher
adds is what it gains over this. `opsa.scope` says whether n, K and the extremes are a response's or the step's.

Logged besides `algorithms.tokens`:

    advantage, penalised    means over the tokens: A (0 outside S), share in S
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from nopsd.config import OpsaConfig, shaping
from nopsd.engine.ema import ShardedEma
from nopsd.engine.sequence_parallel import SequenceParallel
from nopsd.errors import DataError
from nopsd.files import sha256_json
from nopsd.signals.statistics import NAMES
from nopsd.train.algorithms.by_response import by_response
from nopsd.train.algorithms.tokens import TokenAlgorithm, load_token_engine, own_statistics
from nopsd.train.batches import Batching, Example
from nopsd.train.planning import Limits, check_budget
from nopsd.train.run import Step, Targets, TrainingInputs, TrainingRun

ENTROPY, NLL = NAMES.index("token_entropy"), NAMES.index("seq_nll")
EVEN = 1e-12  # nats between the extremes, at most, that count as none


@dataclass(frozen=True)
class FixedAdvantage:
    """ℓ = −A ρ with ρ = 1. `share_N`: of its response's mean, 1/|S| on S and 0 elsewhere."""

    advantage_N: Tensor
    share_N: Tensor

    def __call__(self, logprob_n: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Values and slopes by log p: both −A/|S|."""
        value_n = -(self.advantage_N * self.share_N)[rows].to(logprob_n.dtype)
        return value_n, value_n

    def logged_values(self, logprob_N: Tensor) -> tuple[Tensor, ...]:
        """A, and whether the token is in S."""
        return self.advantage_N, (self.share_N > 0).double()


class Opsa(TokenAlgorithm):
    """Needs prompts alone."""

    loss_names = ("advantage", "penalised")

    def check(self, inputs: TrainingInputs) -> None:
        """Questions with prompts, some of which fit in the budget of tokens."""
        if not inputs.selected:
            raise DataError("no question was selected: raise select.fraction or give more questions")
        for uid in inputs.selected:
            if uid not in inputs.student_prompts:
                raise DataError(f"question {uid} was selected but has no prompt: run the select stage again")
        lengths, train = [len(inputs.student_prompts[uid]) for uid in inputs.selected], inputs.config.train
        check_budget(train.micro_tokens, min(lengths), max(lengths), train.max_response)

    def identity(self, inputs: TrainingInputs) -> dict[str, Any]:
        """The section and the prompts."""
        prompts = [[uid, inputs.student_prompts[uid]] for uid in sorted(inputs.selected)]
        return {"opsa": shaping(inputs.config, "opsa"), "prompts": sha256_json(prompts)}

    def load(self, inputs: TrainingInputs, parallel: SequenceParallel) -> tuple[Any, ShardedEma | None]:
        """The student alone."""
        return load_token_engine(inputs.config, inputs.model_path, inputs.ranks, parallel), None

    def examples(self, run: TrainingRun, step: Step) -> list[Example]:
        """Each rollout under its question's uid; the ids go through untouched."""
        asked = [uid for uid in step.uids for _ in range(run.config.train.n)]
        pairs = zip(asked, step.rollouts, strict=True)
        return [Example(uid, r.prompt_ids, None, r.response_ids, r.logprobs) for uid, r in pairs]

    def batching(self, run: TrainingRun) -> Batching:
        """Each token weighs 1/responses: the mean within a response is over S, which `FixedAdvantage` divides by."""
        train = run.config.train
        limits = Limits(train.micro, train.micro_tokens, train.packing)
        return Batching(limits, "seq_mean_token_sum", run.pad, parallel=run.parallel, device=run.ranks.device)

    def targets(self, run: TrainingRun, step: Step) -> Targets:
        """The advantages of each micro-batch's rows."""
        with step.clock("advantage"):
            found = [own_statistics(run.student, batch)[[NLL, ENTROPY]] for batch in step.batches]
            nll_ST, entropy_ST = by_response(step.examples, step.batches, found, run.ranks)
            advantage_ST = advantages(-nll_ST, entropy_ST, run.config.opsa)
            inside_ST = advantage_ST.isnan().logical_not()
            share_ST = inside_ST / inside_ST.sum(-1, keepdim=True).clamp(min=1)
            place = [(batch.example_N, batch.position_N) for batch in step.batches]
        return Targets([FixedAdvantage(advantage_ST.nan_to_num(0.0)[at], share_ST[at]) for at in place])


def advantages(logprob_ST: Tensor, entropy_ST: Tensor, config: OpsaConfig) -> Tensor:
    """A of the least likely tokens, NaN of all others.

    Args:
        logprob_ST: log p of the sampled tokens in nats; NaN: carries no loss.
        entropy_ST: Of the next-token distributions, in nats.
        config: Share, advantages and scope.

    Source:
        OPSA, arXiv 2608.31046; per response, where its code takes the rows of one rank (chosen).
    """
    found_ST = torch.full_like(logprob_ST, torch.nan)
    scopes = [logprob_ST.flatten()] if config.scope == "step" else list(logprob_ST)
    entropies = [entropy_ST.flatten()] if config.scope == "step" else list(entropy_ST)
    places = [found_ST.view(-1)] if config.scope == "step" else list(found_ST)
    for logprob_n, entropy_n, out_n in zip(scopes, entropies, places):
        count = int((~logprob_n.isnan()).sum())
        if count:
            lowest_K = logprob_n.argsort(stable=True)[: how_many(count, config.fraction)]  # NaN comes last
            out_n[lowest_K] = config.high + (config.low - config.high) * _relative(entropy_n[lowest_K])
    return found_ST


def how_many(count: int, fraction: float) -> int:
    """K = max(1, ⌊f n⌋), of the decimal number that f is written as: 0.3 of 10 is 3."""
    return max(1, int(Fraction(str(fraction)) * count))


def _relative(entropy_K: Tensor) -> Tensor:
    """0 at the least, 1 at the largest; 1 where they are all alike."""
    least, span = entropy_K.min(), entropy_K.max() - entropy_K.min()
    return torch.ones_like(entropy_K) if span <= EVEN else (entropy_K - least) / span
