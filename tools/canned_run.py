"""A distillation run on canned responses, without a server: what tools that count or time a training step share.

In: a model's configuration, prompts, lengths. Out: a `TrainingRun` with its engines loaded, ready for `train(run)`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3ForCausalLM

from nopsd.config import Config
from nopsd.data.prompts import TeacherPrompt
from nopsd.engine.distributed import Ranks
from nopsd.rollout.types import Rollout
from nopsd.train.algorithms.distill import Distillation, load_engines
from nopsd.train.run import TrainingRun


class Canned:
    """Both the client and the weight sync of no server: every prompt is answered by `response`."""

    def __init__(self, response: list[int]) -> None:
        self.response = response

    def generate(self, prompts: Any, uids: Any, sampling: Any, seed: int, **options: Any) -> list[list[Rollout]]:
        """One rollout a prompt."""
        version = options["expected_version"]
        return [[Rollout(u, 0, p, self.response, "", "stop", version, seed)] for p, u in zip(prompts, uids)]

    def push(self, version: int) -> None:
        """Nobody serves."""


class Kept:
    """A log that keeps its rows."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def log(self, step: int, values: Any) -> None:
        """As MetricsLog's."""
        self.rows.append(dict(values))


def save_random(model_config: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A model with random weights, as `model.path` takes it."""
    torch.manual_seed(0)
    with torch.device("cpu"):
        Qwen3ForCausalLM(model_config).to(dtype).save_pretrained(folder)
    return folder


def canned_run(
    config: Config,
    model: Path,
    ranks: Ranks,
    prompts: dict[str, list[int]],
    contexts: dict[str, list[int]],
    response: list[int],
) -> TrainingRun:
    """The run, its engines loaded. `prompts`, `contexts`: the student's and the teacher's ids by uid."""
    student, teacher, ema = load_engines(config, model, ranks)
    canned = Canned(response)
    taught = {uid: TeacherPrompt(ids, 1, 1) for uid, ids in contexts.items()}
    return TrainingRun(
        config=config,
        algorithm=Distillation(teacher_prompts=taught, teacher_engine=teacher),
        selected=list(prompts),
        student_prompts=prompts,
        model_path=model,
        client=canned,
        ranks=ranks,
        folder=model.parent / "work",
        student=student,
        ema=ema,
        sync=canned,
        identity={},
        log=Kept(),
    )
