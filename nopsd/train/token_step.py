"""One optimizer step on a loss of sampled tokens' log-probs, and the sums its log is made of (SPEC §8.1, §8.5, §13.4).

In: the step's examples; a loss for each micro-batch. Out: the weights moved by the gradient of the whole step's loss,
the same whatever ranks and micro-batches share it; the row that every such step logs:

    loss, loss_tokens             Σ over the step's tokens, as weighted; how many they are
    entropy_student               mean next-token entropy at the trained positions (nats)
    logprob_gap, logprob_gap_max  |served − trained| log-prob of the sampled tokens, where a server gave one
    grad_norm, lr, skipped_fraction, policy_version, time/…
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from nopsd.engine.distributed import Ranks
from nopsd.engine.student import lr_at
from nopsd.train.batches import Example, MicroBatch, rank_micro_batches
from nopsd.train.losses.token_loss import TokenResult
from nopsd.train.metrics import Clock
from nopsd.train.planning import Limits
from nopsd.train.state import TrainingRun
from nopsd.train.steps import backward


class TokenLoss(Protocol):
    """One micro-batch's loss: values and slopes by log-prob (`token_loss.LossOf`), and what to log of it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of what `tell` gives, in order."""
        ...

    def __call__(self, logprob_n: Tensor, rows: slice) -> tuple[Tensor, Tensor]: ...

    def tell(self, logprob_N: Tensor) -> Sequence[Tensor]:
        """[N] each; means over the step's tokens are logged."""
        ...


def micro_batches(run: TrainingRun, examples: Sequence[Example]) -> list[MicroBatch]:
    """This rank's share of the step, on its device; weights of 1 over the step's response tokens."""
    train, parallel = run.config.train, run.parallel
    limits = Limits(train.micro, train.micro_tokens, train.packing)
    batches = rank_micro_batches(
        examples, run.ranks.rank // parallel.size, run.ranks.world // parallel.size, limits, "token_mean", run.pad
    )
    return [batch.share(parallel).to(run.ranks.device) for batch in batches]


def learn(run: TrainingRun, batches: Sequence[MicroBatch], losses: Sequence[TokenLoss], step: int) -> TokenSums:
    """One optimizer step over all micro-batches: the gradient of the global loss. Collective.

    StaleWeightsError, before the weights move, if other weights than these have sampled.
    """
    sums = TokenSums(run.ranks.device, losses[0].names)
    for index, (batch, loss_of) in enumerate(zip(batches, losses, strict=True)):
        last = index == len(batches) - 1
        # by hand, for the number of micro-batches changes from step to step
        run.student.set_gradient_accumulation_boundary(last)
        result = run.student(
            input_ids_BT=batch.student.ids_BT,
            rows_N=batch.student.rows_N,
            target_N=batch.targets_N,
            token_weight_N=batch.weights_N,
            loss_of=loss_of,
            segments=batch.student.segments,
        )
        sums.add(batch, result, loss_of.tell(result.logprob_N))
        sums = backward(run, result.loss, sums, last, step)
    return sums


def step_row(run: TrainingRun, step: int, skipped: int, taken: bool, sums: TokenSums, clock: Clock) -> dict[str, float]:
    """What every such step logs, equal on all ranks but for the times."""
    return {
        **sums.values(),
        "grad_norm": float(run.student.get_global_grad_norm()) if taken else math.nan,
        "lr": lr_at(step, run.config.train),
        "skipped_fraction": skipped / (step + 1),
        "policy_version": step,
        **clock.values(),
    }


class TokenSums:
    """Running sums of a step over tokens of weight above 0. `names`: what the loss tells besides."""

    def __init__(self, device: torch.device | str, names: Sequence[str] = ()) -> None:
        # loss, Σ|gap|, tokens with a known gap, tokens, Σ entropy, then the loss's own
        self.sums = torch.zeros(5 + len(names), dtype=torch.float64, device=device)
        self.max = torch.zeros(1, dtype=torch.float64, device=device)
        self.names = tuple(names)
        self.losses: list[tuple[Tensor, tuple[str, ...]]] = []  # of this rank: a micro-batch's loss and its uids

    def add(self, batch: MicroBatch, result: TokenResult, told: Sequence[Tensor]) -> None:
        self.losses.append((result.loss.detach(), batch.student.names))
        counted = batch.weights_N > 0
        gap = (result.logprob_N - batch.served_N).abs().double()[counted & ~batch.served_N.isnan()]
        found = [values[counted].double().sum() for values in (result.entropy_N, *told)]
        known, tokens = (gap.new_tensor(float(n)) for n in (gap.numel(), int(counted.sum())))
        self.sums += torch.stack([result.loss.detach().double(), gap.sum(), known, tokens, *found])
        if gap.numel():
            self.max = torch.maximum(self.max, gap.max()[None])

    def over_ranks(self, ranks: Ranks) -> TokenSums:
        whole = TokenSums(self.sums.device, self.names)
        whole.sums, whole.max, whole.losses = ranks.all_sum(self.sums), ranks.all_max(self.max), self.losses
        return whole

    @property
    def loss(self) -> float:
        return float(self.sums[0])

    @property
    def gap_max(self) -> float:
        return float(self.max)

    def not_finite(self) -> list[str]:
        """The uids of this rank's micro-batches whose loss is not finite."""
        return [uid for loss, uids in self.losses if not math.isfinite(float(loss)) for uid in uids]

    def values(self) -> Mapping[str, float]:
        loss, gap, known, tokens, *sums = self.sums.tolist()
        means = {name: total / max(tokens, 1.0) for name, total in zip(("entropy_student", *self.names), sums)}
        gaps = {"logprob_gap": gap / known, "logprob_gap_max": self.gap_max} if known else {}
        return {"loss": loss, "loss_tokens": tokens, **means, **gaps}
