"""What algorithms share whose loss is one of the sampled tokens' log-probs: the engine, the forward, the log.

student_entropy               mean next-token entropy at the trained positions (nats)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nopsd.config import Config
from nopsd.engine.distributed import Ranks
from nopsd.engine.ds_config import role_configs
from nopsd.engine.family_check import check_training
from nopsd.engine.sequence_parallel import ALONE, SequenceParallel, split_sequences
from nopsd.engine.student import load_student
from nopsd.train.batches import MicroBatch
from nopsd.train.losses.token_head import TokenLossModel
from nopsd.train.metrics import BatchLoss
from nopsd.train.run import Algorithm, Step, TrainingRun


class TokenLoss(Protocol):
    """One micro-batch's loss: values and slopes by log-prob (`token_loss.LossOf`), and what to log of it."""

    def __call__(self, logprob_n: Tensor, rows: slice) -> tuple[Tensor, Tensor]: ...

    def logged_values(self, logprob_N: Tensor) -> Sequence[Tensor]:
        """[N] each; means over the step's tokens are logged."""
        ...


class TokenAlgorithm(Algorithm):
    """An algorithm whose targets are a `TokenLoss` for each micro-batch. `loss_names`: of what these log."""

    loss_names: tuple[str, ...] = ()

    @property
    def logged(self) -> tuple[str, ...]:
        """Tokens, their entropies, and what the loss logs."""
        return ("tokens", "student_entropy", *self.loss_names)

    def loss(self, run: TrainingRun, batch: MicroBatch, target: TokenLoss) -> BatchLoss:
        """The student's log-probs of the response's tokens, and the loss of them."""
        result = run.student(
            input_ids_BT=batch.student.ids_BT,
            rows_N=batch.student.rows_N,
            target_N=batch.targets_N,
            token_weight_N=batch.weights_N,
            loss_of=target,
            segments=batch.student.segments,
        )
        counted_N = batch.weights_N > 0
        values = (torch.ones_like(result.logprob_N), result.entropy_N, *target.logged_values(result.logprob_N))
        sums = torch.stack([value_N[counted_N].double().sum() for value_N in values])
        by_token = {"student_logprob": result.logprob_N, "student_entropy": result.entropy_N}
        return BatchLoss(result.loss, result.logprob_N, sums, by_token)

    def metrics(self, run: TrainingRun, step: Step, sums: Mapping[str, float]) -> dict[str, float]:
        """Means over the step's tokens."""
        return {name: sums[name] / max(sums["tokens"], 1.0) for name in self.logged[1:]}


def load_token_engine(config: Config, model_path: Path, ranks: Ranks, parallel: SequenceParallel = ALONE) -> Any:
    """The trained model's ZeRO-3 engine around a TokenLossModel. ConfigError if its heads can't be shared out so."""
    train, trusted = config.train, config.model.trust_remote_code
    check_training(model_path, config)
    torch.manual_seed(train.seed + ranks.rank)

    def wrap(lm: Any) -> TokenLossModel:
        split_sequences(lm, parallel)
        return TokenLossModel(lm, config.distill.logit_chunk)

    student_config, _ = role_configs(config, ranks.device.type)
    return load_student(model_path, config.model.dtype, student_config, train, wrap, trusted, train.seed)


@torch.no_grad()  # type: ignore[untyped-decorator]
def own_statistics(engine: Any, batch: MicroBatch) -> Tensor:
    """`statistics_of` a micro-batch's loss rows, by the engine's own weights; evaluation mode. Collective."""
    training = engine.training
    engine.eval()  # without LoRA's dropout
    try:
        found: Tensor = engine(
            input_ids_BT=batch.student.ids_BT,
            rows_N=batch.student.rows_N,
            target_N=batch.targets_N,
            token_weight_N=batch.weights_N,
            segments=batch.student.segments,
        )
    finally:
        engine.train(training)
    return found
