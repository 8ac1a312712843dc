"""The frozen base model's log-probs of a step's tokens, for the KL term (SPEC §8.5; `grpo.kl_coef`).

In: the step's micro-batches. Out: a tensor [N] each, in tiles, no gradient. A second ZeRO-3 engine; under LoRA the
student's own with its adapters off. Every call is a collective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nopsd.config import Config
from nopsd.engine.distributed import Ranks
from nopsd.engine.ds_config import role_configs
from nopsd.engine.frozen import load_frozen
from nopsd.engine.lora import computing_with
from nopsd.engine.sequence_parallel import SequenceParallel, split_sequences
from nopsd.signals.statistics import NAMES
from nopsd.train.batches import MicroBatch
from nopsd.train.losses.loss_head import gathered_weight, response_hidden
from nopsd.train.token_model import device_kind, own_statistics, statistics_of

NLL = NAMES.index("seq_nll")


@dataclass(frozen=True)
class Reference:
    """`engine`: of the frozen model; None: `student` without its adapters."""

    student: Any
    engine: Any | None
    chunk: int | None = None

    def logprobs(self, batches: Sequence[MicroBatch]) -> list[Tensor]:
        return [-self._statistics(batch)[NLL] for batch in batches]

    def _statistics(self, batch: MicroBatch) -> Tensor:
        if self.engine is None:
            with computing_with(self.student.module.lm, None):
                return own_statistics(self.student, batch)
        side = batch.student
        hidden_NH = response_hidden(self.engine, side.ids_BT, side.rows_N, side.segments)
        with gathered_weight(self.engine) as weight_VH:
            return statistics_of(hidden_NH, batch.targets_N, weight_VH.detach(), self.chunk)


def load_reference(
    config: Config, model_path: Path, student: Any, ranks: Ranks, parallel: SequenceParallel
) -> Reference | None:
    """None without a KL term; loads the base model a second time only where its weights are not in the student."""
    if config.grpo.kl_coef <= 0:
        return None
    engine = None
    if not config.train.lora.r:
        _, frozen = role_configs(config, device_kind(ranks))
        engine = load_frozen(
            str(model_path),
            config.model.dtype,
            frozen,
            config.model.trust_remote_code,
            packing=config.train.packing,
            prepare=lambda lm: split_sequences(lm, parallel),
        )
    return Reference(student, engine, config.distill.logit_chunk)
