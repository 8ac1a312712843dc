"""Runs the whole distillation stage on a real server; started by `deepspeed` on 2 ranks.

usage: worker_train.py MODEL_DIR OUT_DIR ACTION [ACTION ...]   with NOPSD_SERVER_URL and NOPSD_SERVER_KEY set
    whole    OUT_DIR/whole: three steps and the export
    lying    OUT_DIR/lying: a sync that announces new weights without sending them; leaves OUT_DIR/lying.txt, the error
    hold     OUT_DIR/broken: like whole, but waits for ever after the checkpoint of step 2, to be killed
    resume   OUT_DIR/broken: goes on
    partial  OUT_DIR/partial: four steps that cut longer answers and go on with them
    rare     OUT_DIR/lora_ema: two steps of worker_rare.py's case of that name
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from nopsd.config import Config, PromptConfig, ServerConfig, TeacherConfig, TrainConfig
from nopsd.data.prompts import PromptRenderer, load_tokenizer
from nopsd.data.records import Question
from nopsd.data.wording import Demonstration
from nopsd.engine.distributed import Ranks
from nopsd.train.algorithms.distill import Distillation
from tests.train.served import DIST, client_of, lying_sync, main, train_on

TEXTS = ("What is two plus three?", "Name a colour, please.", "Which is larger?", "Count to four.", "Why is it so?")


def config() -> Config:
    return Config(
        server=ServerConfig(max_model_len=512, sync_bucket_mib=1, sync_timeout_s=120),
        train=TrainConfig(steps=3, batch=4, micro=2, max_response=12, lr=1e-3, warmup=0, checkpoint_every=2, seed=5),
        teacher=TeacherConfig(kind="ema", rate=0.1),
        dist=DIST,
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


def run(action: str, model: Path, out: Path, ranks: Ranks) -> None:
    if action == "rare":
        import worker_rare  # which imports this module

        worker_rare.run("lora_ema", model, out, ranks)
        return
    settings = config()
    if action == "partial":
        settings.rollout.partial, settings.train.steps, settings.train.max_response = 0.5, 4, 40
    students, teachers = prompts(model)
    folder = out / ("broken" if action in ("hold", "resume") else action)
    with lying_sync(out / f"lying{ranks.rank}.txt") if action == "lying" else nullcontext():
        train_on(
            settings,
            Distillation(teacher_prompts=teachers),
            students,
            model,
            folder,
            ranks,
            client_of(ranks),
            progress=hold if action == "hold" and ranks.is_main else None,
        )


if __name__ == "__main__":
    main(run)
