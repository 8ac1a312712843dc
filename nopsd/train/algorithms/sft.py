"""Supervised fine-tuning on given responses, the loop (SPEC §8.1; LMSI, arXiv 2210.11610).

    for each step: B ← questions; y ← one of each question's responses; L = −(1/Σ|y|) Σ_x Σ_t log π_θ(y_t|x,y_<t);
    θ by AdamW

Every rank runs it in step with the others. No server takes part, but where the label-free probe is due.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from nopsd.engine.student import lr_at, set_lr
from nopsd.train.algorithms.sft_state import Finetuning
from nopsd.train.batches import Example, batch_uids
from nopsd.train.metrics import Clock, mean
from nopsd.train.steps import Steps, refuse_if_stopped
from nopsd.train.token_step import learn, micro_batches, step_row


class NegativeLogLikelihood:
    """ℓ = −log p."""

    names: tuple[str, ...] = ()

    def __call__(self, logprob_n: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        return -logprob_n, torch.full_like(logprob_n, -1.0)

    def tell(self, logprob_N: Tensor) -> tuple[Tensor, ...]:
        return ()


def finetune(run: Finetuning, step: int = 0, skipped: int = 0) -> None:
    """Train from `step` (so many are done, `skipped` of them not taken) to `train.steps`, or to `run.guards.stopped`.

    Raises Stopped on all ranks, with the step finished and saved, if any was asked to end (`run.stop`).
    """
    train = run.config.train
    refuse_if_stopped(run, step)
    steps = Steps(run, skipped)
    while step < train.steps:
        clock = Clock()
        examples = step_examples(run, step)
        batches = micro_batches(run, examples)
        with clock("student"):
            set_lr(run.student, lr_at(step, train))
            sums = learn(run, batches, [NegativeLogLikelihood()] * len(batches), step)
        taken = run.student.was_step_applied()
        steps.skips.add(taken, step, [e.uid for e in examples], sums, run.ranks)
        if steps.probes(step):
            with clock("sync"):
                run.sync.push(version=step + 1)
        row = step_row(run, step, steps.skips.total, taken, sums, clock) | target_metrics(examples)
        if not steps.close(step, row):
            return
        step += 1


def step_examples(run: Finetuning, step: int) -> list[Example]:
    """The step's questions, each with the response that it is given in this epoch."""
    batch, count = run.config.train.batch, len(run.selected)
    uids = batch_uids(run.selected, step, batch, run.seed)
    epochs = [place // count for place in range(step * batch, (step + 1) * batch)]
    return [
        Example(uid, run.student_prompts[uid], None, run.responses[uid][drawn(run, uid, epoch)])
        for uid, epoch in zip(uids, epochs, strict=True)
    ]


def drawn(run: Finetuning, uid: str, epoch: int) -> int:
    """Which of the question's responses an epoch trains on: uniform, and a pure function, so that no state is kept."""
    return random.Random(f"{run.seed}/{epoch}/{uid}").randrange(len(run.responses[uid]))


def target_metrics(examples: list[Example]) -> dict[str, float]:
    """Lengths of what is trained on; not `response_length_mean`, which guards watch, for nothing was sampled."""
    lengths = [len(e.response) for e in examples]
    return {"target_length_mean": mean(lengths), "target_length_max": max(lengths)}
