"""Supervised fine-tuning on given responses (LMSI, arXiv 2210.11610).

    B ← questions; y ← one of each question's responses; L = −(1/Σ|y|) Σ_x Σ_t log π_θ(y_t|x,y_<t)

No server takes part, but where the label-free probe is due. Logged besides `algorithms.tokens`:

    target_length_mean|max        of what is trained on; not `response_length_mean`, which guards read
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from nopsd.engine.distributed import broadcast_from_rank0
from nopsd.engine.ema import ShardedEma
from nopsd.engine.sequence_parallel import SequenceParallel
from nopsd.errors import DataError
from nopsd.files import sha256_json
from nopsd.train.algorithms.tokens import TokenAlgorithm, load_token_engine
from nopsd.train.batches import Example
from nopsd.train.planning import check_budget, watched
from nopsd.train.run import Step, Targets, TrainingInputs, TrainingRun


class NegativeLogLikelihood:
    """ℓ = −log p."""

    def __call__(self, logprob_n: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        return -logprob_n, torch.full_like(logprob_n, -1.0)

    def logged_values(self, logprob_N: Tensor) -> tuple[Tensor, ...]:
        """Nothing besides the loss."""
        return ()


@dataclass(kw_only=True)
class Finetuning(TokenAlgorithm):
    """`responses`: token ids of the responses to each question, one or more."""

    on_policy = False
    responses: Mapping[str, list[list[int]]]

    def check(self, inputs: TrainingInputs) -> None:
        """Each question has a prompt and responses, none of them empty, and some fit in the budget of tokens."""
        if not inputs.selected:
            raise DataError("no question has a response to train on: lower sft.min_share, or raise select.fraction")
        for uid in inputs.selected:
            responses = self.responses.get(uid)
            if not inputs.student_prompts.get(uid) or not responses or not all(responses):
                raise DataError(f"question {uid} has no prompt or an empty response: run the rollout stage again")
        lengths = [len(inputs.student_prompts[uid]) for uid in inputs.selected]
        longest = max(len(ids) for uid in inputs.selected for ids in self.responses[uid])
        check_budget(inputs.config.train.micro_tokens, min(lengths), max(lengths), longest)

    def identity(self, inputs: TrainingInputs) -> dict[str, Any]:
        """Prompts and responses."""
        rows = [[uid, inputs.student_prompts[uid], self.responses[uid]] for uid in sorted(inputs.selected)]
        return {"examples": sha256_json(rows)}

    def needs_server(self, inputs: TrainingInputs) -> bool:
        """For what is measured while it trains alone."""
        return watched(inputs.config) and broadcast_from_rank0(inputs.ranks, lambda: inputs.probe is not None)

    def load(self, inputs: TrainingInputs, parallel: SequenceParallel) -> tuple[Any, ShardedEma | None]:
        """The student alone."""
        return load_token_engine(inputs.config, inputs.model_path, inputs.ranks, parallel), None

    def examples(self, run: TrainingRun, step: Step) -> list[Example]:
        """The step's questions, each with the response that it is given in this epoch."""
        batch, questions = run.config.train.batch, len(run.selected)
        epochs = [place // questions for place in range(step.number * batch, (step.number + 1) * batch)]
        return [
            Example(uid, run.student_prompts[uid], None, self.responses[uid][self.drawn(run, uid, epoch)])
            for uid, epoch in zip(step.uids, epochs, strict=True)
        ]

    def drawn(self, run: TrainingRun, uid: str, epoch: int) -> int:
        """Which of the question's responses an epoch trains on: uniform, and a pure function, so that no state is
        kept."""
        return random.Random(f"{run.config.train.seed}/{epoch}/{uid}").randrange(len(self.responses[uid]))

    def targets(self, run: TrainingRun, step: Step) -> Targets:
        """The same loss everywhere."""
        lengths = [len(e.response) for e in step.examples]
        metrics = {"target_length_mean": fmean(lengths), "target_length_max": max(lengths)}
        return Targets([NegativeLogLikelihood()] * len(step.batches), metrics)
