"""TRL's trainers on canned responses: arms of tools/bench_step.py.

    python trl_step.py {trl-sdft|trl-distillation} FOLDER [PROFILED_STEP]

FOLDER holds model/, questions.json and settings.json, as tools/bench_step.py makes them. SDFTTrainer has a frozen
teacher that reads the question's context; its limit on prompts' length is lifted, or it would cut the context away.
DistillationTrainer's teacher reads the student's prompt, without any context: it does less. Generation is replaced by
the responses of questions.json, so that all arms train on equal tokens.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from step_clock import StepClock
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM, TrainerCallback  # noqa: F401
from trl import DistillationConfig, DistillationTrainer
from trl.experimental.sdft import SDFTConfig, SDFTTrainer


class Canned:
    """The responses of each question, in order, found by its prompt's ids."""

    def __init__(self, questions: list[dict[str, Any]]) -> None:
        self.left = {tuple(q["student_ids"]): list(q["responses"]) for q in questions}

    def take(self, prompts: list[list[int]]) -> list[list[int]]:
        """KeyError if TRL made another prompt of the text than nopsd reads."""
        return [self.left[tuple(prompt)].pop(0) for prompt in prompts]


class Hook(TrainerCallback):
    """TRL's step, from the batch's making to the optimizer's step and the zeroed gradients."""

    def __init__(self, clock: StepClock) -> None:
        self.clock, self.loss = clock, 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.clock.loaded()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.loss = 0.0
        self.clock.begin()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.clock.end(self.loss)


def common(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "output_dir": str(Path(settings["folder"]) / "out"),
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "per_device_train_batch_size": settings["micro"],
        "gradient_accumulation_steps": settings["sequences"] // settings["micro"],
        "max_steps": settings["steps"],
        "max_completion_length": settings["max_response"],
        "gradient_checkpointing": False,
        "learning_rate": settings["lr"],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": settings["clip"],
        "temperature": 1.0,
        "disable_tqdm": True,
        "seed": 0,
        "shuffle_dataset": False,
    }


def sdft(folder: Path, settings: dict[str, Any], questions: list[dict[str, Any]], clock: StepClock) -> Any:
    canned, hook = Canned(questions), Hook(clock)

    class Trainer(SDFTTrainer):
        def _generate_transformers(self, prompt_ids: list[list[int]]) -> Any:
            return prompt_ids, canned.take(prompt_ids)

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            hook.loss += float(loss)  # already divided by the micro-batches
            return loss

    rows = [{"prompt": [{"role": "user", "content": q["text"]}], "privileged_context": q["context"]} for q in questions]
    config = SDFTConfig(
        **common(settings),
        num_generations=settings["samples"],
        max_prompt_length=None,
        distillation_mode="full_logits",
        distillation_alpha=1.0,
        distillation_is_clip=None,
        teacher_model_kind="base",
        teacher_prompt_template="{privileged_context} {prompt}",
    )
    return Trainer(
        model=str(folder / "model"),
        args=config,
        train_dataset=Dataset.from_list(rows),
        callbacks=[hook],
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
    )


def distillation(folder: Path, settings: dict[str, Any], questions: list[dict[str, Any]], clock: StepClock) -> Any:
    canned, hook = Canned(questions), Hook(clock)

    class Trainer(DistillationTrainer):
        def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
            return canned.take(prompt_ids)

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            hook.loss += float(loss)
            return loss

    # It has one response a question: a question with four stands there four times.
    rows = [{"prompt": [{"role": "user", "content": q["text"]}]} for q in questions for _ in q["responses"]]
    teacher = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    torch.manual_seed(1)
    with torch.no_grad():  # it reads what the student reads: with equal weights there would be nothing to learn
        for parameter in teacher.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.005)
    return Trainer(
        model=str(folder / "model"),
        teacher_model=teacher,
        args=DistillationConfig(**common(settings), beta=1.0),
        train_dataset=Dataset.from_list(rows),
        callbacks=[hook],
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
    )


def check_prompts(folder: Path, questions: list[dict[str, Any]]) -> None:
    """The teacher's prompts must be nopsd's, id by id. The student's are checked as responses are taken."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    for q in questions:
        message = [{"role": "user", "content": f"{q['context']} {q['text']}"}]
        ids = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True, return_dict=True)
        if list(ids["input_ids"]) != q["teacher_ids"]:
            raise SystemExit(f"{q['uid']}: TRL's teacher prompt is not nopsd's")


def main(arm: str, folder: Path, profiled: int) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    questions = json.loads((folder / "questions.json").read_text())
    torch.set_num_threads(settings["threads"])
    check_prompts(folder, questions)
    clock = StepClock(profiled)
    trainer = {"trl-sdft": sdft, "trl-distillation": distillation}[arm](folder, settings, questions, clock)
    if {p.dtype for p in trainer.model.parameters()} != {torch.float32}:
        raise SystemExit("TRL's student is not float32")
    trainer.train()
    clock.print()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else -1)
