"""nopsd's own training step on canned responses: arms of tools/bench_step.py.

    python nopsd_step.py {nopsd|nopsd-again|nopsd-plain} FOLDER [PROFILED_STEP]

nopsd        `load_engines` and the training loop: DeepSpeed ZeRO-3 on one rank; new questions in every step
nopsd-again  the same, with the first step's questions in every step: contexts kept over steps are found again
nopsd-plain  the same loop without DeepSpeed: plain modules and AdamW, to tell DeepSpeed's cost from nopsd's

A step is timed from the request for its responses to its row in the log, so with all the log's numbers; checkpoints
are left out.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed  # noqa: F401  (before the clock: an import is no model's memory)
import torch
from step_clock import StepClock
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3ForCausalLM  # noqa: F401
from transformers.integrations.deepspeed import HfDeepSpeedConfig  # noqa: F401

from nopsd.config import Config, DistConfig, DistillConfig, TrainConfig
from nopsd.data.prompts import TeacherPrompt
from nopsd.engine.distributed import Ranks, init_distributed, shutdown_distributed
from nopsd.engine.packed_attention import use_packed_attention
from nopsd.rollout.types import Rollout
from nopsd.train import teachers
from nopsd.train.algorithms.distill import Distillation, load_engines
from nopsd.train.loop import train
from nopsd.train.losses.head import DistillModel
from nopsd.train.run import TrainingRun


class Done(Exception):
    """Enough steps were timed."""


class Canned:
    """The server's side: begins a step's time, gives the responses of questions.json."""

    def __init__(self, responses: dict[str, list[list[int]]], clock: StepClock) -> None:
        self.responses, self.clock = responses, clock

    def generate(
        self, prompts: Any, uids: Any, sampling: Any, seed: int, expected_version: int | None = None, **options: Any
    ) -> list[list[Rollout]]:
        self.clock.begin()
        return [
            [
                Rollout(uid, i, prompt, y, "", "stop", expected_version or 0, seed)
                for i, y in enumerate(self.responses[uid.partition("#")[0]])
            ]
            for prompt, uid in zip(prompts, uids)
        ]


class NoSync:
    def push(self, version: int) -> None:
        pass


class Steps:
    """The log's side: ends a step's time, and the run after `steps`."""

    def __init__(self, clock: StepClock, steps: int) -> None:
        self.clock, self.steps = clock, steps

    def log(self, step: int, values: Any) -> None:
        self.clock.end(values["loss"])
        if step + 1 == self.steps:
            raise Done


class PlainEngine:
    """What the loop asks of a DeepSpeed engine, in plain PyTorch on one device."""

    def __init__(self, module: torch.nn.Module, train: TrainConfig, accumulation: int) -> None:
        self.module, self.clip, self.accumulation, self.done = module, train.clip, accumulation, 0
        self.trained = [p for p in module.parameters() if p.requires_grad]
        betas = (train.betas[0], train.betas[1])
        if self.trained:
            self.optimizer = torch.optim.AdamW(self.trained, train.lr, betas, weight_decay=train.weight_decay)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def backward(self, loss: Tensor, **options: Any) -> None:
        loss.backward()

    def set_gradient_accumulation_boundary(self, is_boundary: bool) -> None:
        self.done = self.accumulation - 1 if is_boundary else 0

    def step(self) -> None:
        self.done += 1
        if self.done < self.accumulation:
            return
        self.done = 0
        self.norm = torch.nn.utils.clip_grad_norm_(self.trained, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def was_step_applied(self) -> bool:
        return True

    def get_global_grad_norm(self) -> Tensor:
        return self.norm


@torch.no_grad()
def plain_distance(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], rank: int) -> float:
    """‖θ − θ_0‖², which the loop reads from DeepSpeed's shards."""
    return float(sum((p - teacher[name]).pow(2).sum() for name, p in student.items()))


def plain_engines(config: Config, model: Path) -> tuple[Any, Any]:
    student, teacher = (AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32) for _ in range(2))
    for lm in (student, teacher):
        lm.config.use_cache = False
        if config.train.packing:
            use_packed_attention(lm)
    teacher.requires_grad_(False).eval()
    train = config.train
    accumulation = max(1, train.batch * train.n // train.micro)
    engine = PlainEngine(DistillModel(student, config.distill).train(), train, accumulation)
    teachers.squared_distance = plain_distance
    return engine, PlainEngine(teacher, train, 1)


def config_of(settings: dict[str, Any]) -> Config:
    train = TrainConfig(
        steps=10**6,
        batch=settings["sequences"] // settings["samples"],
        n=settings["samples"],
        micro=settings["micro"],
        lr=settings["lr"],
        warmup=0,
        clip=settings["clip"],
        checkpoint_every=10**6,
        sync_check_every=0,
        probe_every=0,
    )
    distill_config = DistillConfig(aggregation="seq_mean_token_mean")  # as SDFTTrainer averages
    config = Config(train=train, distill=distill_config, dist=DistConfig(threads=settings["threads"]))
    for key, value in settings["set"].items():
        section, _, name = key.partition(".")
        setattr(getattr(config, section), name, value)
    return config


def build(arm: str, folder: Path, settings: dict[str, Any], ranks: Ranks, clock: StepClock) -> TrainingRun:
    questions = json.loads((folder / "questions.json").read_text())
    config = config_of(settings)
    uids = [q["uid"] for q in questions]
    if arm == "nopsd-again":
        uids = uids[: config.train.batch]
    if arm == "nopsd-plain":
        student, teacher = plain_engines(config, folder / "model")
    else:
        student, teacher, *_ = load_engines(config, folder / "model", ranks)
    prompts = {q["uid"]: TeacherPrompt(q["teacher_ids"], 1, 1) for q in questions}
    return TrainingRun(
        config=config,
        algorithm=Distillation(teacher_prompts=prompts, teacher_engine=teacher),
        model_path=folder / "model",
        selected=uids,
        student_prompts={q["uid"]: q["student_ids"] for q in questions},
        student=student,
        ema=None,
        client=Canned({q["uid"]: q["responses"] for q in questions}, clock),
        sync=NoSync(),
        ranks=ranks,
        folder=folder / "work",
        log=Steps(clock, settings["steps"]),
        progress=None,
        identity={},
    )


def main(arm: str, folder: Path, profiled: int) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    if arm == "nopsd-plain":
        torch.set_num_threads(settings["threads"])
        ranks = Ranks(0, 1, torch.device("cpu"))
    else:
        ranks = init_distributed(DistConfig(threads=settings["threads"]))
    clock = StepClock(profiled)
    d = build(arm, folder, settings, ranks, clock)
    clock.loaded()
    with suppress(Done):
        train(d)
    clock.print()
    shutdown_distributed()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else -1)
