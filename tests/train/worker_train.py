"""Runs the whole distillation stage on a real server; started by `deepspeed` on 2 ranks.

usage: worker_train.py MODEL_DIR OUT_DIR ACTION [ACTION ...]   with NOPSD_SERVER_URL and NOPSD_SERVER_KEY set
    whole    OUT_DIR/whole: three steps and the export
    lying    OUT_DIR/lying: a sync that announces new weights without sending them; leaves OUT_DIR/lying.txt, the error
    hold     OUT_DIR/broken: like whole, but waits for ever after the checkpoint of step 2, to be killed
    resume   OUT_DIR/broken: goes on
    rare     OUT_DIR/lora_ema: two steps of worker_rare.py's case of that name
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from nopsd.config import Config, DistConfig, PromptConfig, ServerConfig, TeacherConfig, TrainConfig
from nopsd.data.prompts import PromptRenderer, load_tokenizer
from nopsd.data.records import Question
from nopsd.data.wording import Demonstration
from nopsd.engine.distributed import Ranks, init_distributed, shutdown_distributed
from nopsd.errors import StaleWeightsError
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.weight_sync import WeightSync
from nopsd.train.algorithms.distill import Distillation
from nopsd.train.metrics_log import MetricsLog
from nopsd.train.run import TrainingInputs
from nopsd.train.trainer import run_training

TEXTS = ("What is two plus three?", "Name a colour, please.", "Which is larger?", "Count to four.", "Why is it so?")


def config() -> Config:
    return Config(
        server=ServerConfig(max_model_len=512, sync_bucket_mib=1, sync_timeout_s=120),
        train=TrainConfig(steps=3, batch=4, micro=2, max_response=12, lr=1e-3, warmup=0, checkpoint_every=2, seed=5),
        teacher=TeacherConfig(kind="ema", rate=0.1),
        dist=DistConfig(ranks=2, timeout_s=180),
    )


def prompts(model: Path) -> tuple[dict[str, list[int]], dict[str, Any]]:
    renderer = PromptRenderer(load_tokenizer(model), PromptConfig())
    questions = [Question(f"q{i}", "d", "s", text) for i, text in enumerate(TEXTS)]
    students = {q.uid: renderer.student(q) for q in questions}
    teachers = {
        q.uid: renderer.teacher(q, [Demonstration(questions[i - 1], f"It is {i}. <answer>{i}</answer>")], 400)
        for i, q in enumerate(questions)
    }
    return students, teachers


def hold(done: int, total: int, **info: object) -> None:
    if done == 2:
        time.sleep(3600)


TRUE_PUSH = WeightSync.push


def push_nothing(self: WeightSync, version: int) -> None:
    """The first push is honest; the others only announce."""
    if version == 0:
        TRUE_PUSH(self, version)
    elif self._rank == 0:
        self._client.set_policy_version(version)


def run(action: str, model: Path, out: Path, ranks: Ranks) -> None:
    if action == "rare":
        import worker_rare  # which imports this module

        worker_rare.run("lora_ema", model, out, ranks)
        return
    students, teachers = prompts(model)
    client: Any = None  # rank 0 alone talks to the server
    if ranks.is_main:
        client = RolloutClient(os.environ["NOPSD_SERVER_URL"], os.environ["NOPSD_SERVER_KEY"])
    folder = out / ("broken" if action in ("hold", "resume") else action)
    if action == "lying":
        WeightSync.push = push_nothing  # type: ignore[method-assign]
    try:
        run_training(
            TrainingInputs(
                config=config(),
                algorithm=Distillation(teacher_prompts=teachers),
                selected=list(students),
                student_prompts=students,
                model_path=model,
                client=client,
                ranks=ranks,
                folder=folder,
                open_log=lambda step: MetricsLog(folder, step),
                progress=hold if action == "hold" and ranks.is_main else None,
            )
        )
    except StaleWeightsError as error:
        if action != "lying":
            raise
        (out / f"lying{ranks.rank}.txt").write_text(str(error))
    finally:
        WeightSync.push = TRUE_PUSH  # type: ignore[method-assign]


def main() -> None:
    model, out, *actions = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    ranks = init_distributed(config().dist)
    for action in actions:
        run(action, Path(model), Path(out), ranks)
    ranks.barrier()
    shutdown_distributed()


if __name__ == "__main__":
    main()
