"""What a teacher has to say, before anything is trained: how far demonstrations move the model on stored answers.

    KL(p ‖ q) a token, p = the student's next token, q = the same weights' behind the teacher's prompt

On a sample of the questions to be trained on, with the base model's own answers. It is the distillation loss before the
first step; where it is about 0 there is nothing to distil. Reads no label, and changes nothing that is trained.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from nopsd.evaluation.conclusion import ROUNDING, teacher_gain
from nopsd.files import write_json
from nopsd.neurons.finished_shards import ShardFolder
from nopsd.rollout.types import Rollout
from nopsd.signals.forward_columns import MeasuredModel
from nopsd.signals.teacher_shift import teacher_shift
from nopsd.train.artefacts import GAIN
from nopsd.train.run import TrainingRun

QUESTIONS = 16  # as many as the paper's steps have
log = logging.getLogger(__name__)


class _Module:
    """The student's model as `Observer` runs it: by itself, as the engine's root would compute a loss."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def __call__(self, **given: Any) -> Any:
        return self.module(**given)


def sample_of(selected: Sequence[str], rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The first stored answer of `QUESTIONS` questions, evenly spaced among the selected; empty answers left out."""
    count = min(QUESTIONS, len(selected))
    chosen = {selected[i * len(selected) // count] for i in range(count)}
    first: dict[str, Rollout] = {}
    for rollout in rollouts:
        if rollout.uid in chosen and rollout.response_ids:
            first.setdefault(rollout.uid, rollout)
    return [first[uid] for uid in sorted(first)]


def measure_gain(run: TrainingRun, rollouts: Sequence[Rollout], prompts: Mapping[str, list[int]]) -> None:
    """Write FOLDER/gain.json, and log what it means. Collective; nothing with dist.sequence_parallel.

    Args:
        run: Its student still has the base model's weights.
        rollouts: The stored answers, one a question (`sample_of`).
        prompts: The teacher's prompts by uid.
    """
    if not rollouts or run.parallel.size > 1:
        return
    lm, config = run.student.module.lm, run.config
    training = lm.training
    lm.eval()
    model = MeasuredModel(_Module(lm), str(run.model_path), mlp_adapter=config.model.mlp_adapter)
    shown = {r.uid: prompts[r.uid] for r in rollouts}
    shifts = teacher_shift(model, rollouts, shown, config.signal, run.ranks, run.folder)
    lm.train(training)
    run.ranks.barrier()
    if run.ranks.is_main:
        ShardFolder(run.folder, "").clear()
        by_uid = dict(zip((r.uid for r in rollouts), map(float, shifts), strict=True))
        mean = sum(by_uid.values()) / len(by_uid)
        found = {"teacher_kl": mean, "by_question": by_uid}
        write_json(run.folder / GAIN, found)
        for line in teacher_gain(found):
            log.log(logging.WARNING if line.startswith("WARNING") else logging.INFO, "%s", line)
        if run.progress is not None and mean < ROUNDING:
            run.progress = partial(run.progress, WARNING="nothing to distil: see the log")
            run.progress(0, config.train.steps)
