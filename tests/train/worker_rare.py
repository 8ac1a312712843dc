"""Objectives and teachers that few runs use, by the whole train stage on a real server; started by `deepspeed`.

usage: worker_rare.py MODEL_DIR OUT_DIR CASE [CASE ...]   with NOPSD_SERVER_URL and NOPSD_SERVER_KEY set
Each case leaves OUT_DIR/CASE: two steps and the export.
"""

from __future__ import annotations

from pathlib import Path

from worker_train import config, prompts

from nopsd.config import Config, DistillConfig, LoraConfig, TeacherConfig, TrainConfig
from nopsd.engine.distributed import Ranks
from nopsd.train.algorithms.distill import Distillation
from tests.train.served import client_of, main, train_on

FROZEN = TeacherConfig(kind="frozen")
EMA = TeacherConfig(kind="ema", rate=0.1)
LORA = LoraConfig(r=4, alpha=8)
CASES: dict[str, tuple[DistillConfig, TeacherConfig, LoraConfig]] = {
    "paper": (DistillConfig(), FROZEN, LoraConfig()),
    "lora_frozen": (DistillConfig(), FROZEN, LORA),
    "lora_ema": (DistillConfig(support="topk", topk=8, is_clip=2.0), EMA, LORA),
    "lora_pmi": (DistillConfig(target="pmi", kl_base_coef=0.1), FROZEN, LORA),
    "live": (DistillConfig(), TeacherConfig(kind="live"), LoraConfig()),
    "trust_region": (DistillConfig(), TeacherConfig(kind="trust_region", mix=0.3), LoraConfig()),
    "pmi": (DistillConfig(target="pmi"), FROZEN, LoraConfig()),
    "barycenter": (DistillConfig(target="barycenter"), FROZEN, LoraConfig()),
    "contrast": (DistillConfig(contrast="random_ctx"), FROZEN, LoraConfig()),
    "contrast_live": (DistillConfig(contrast="random_ctx"), TeacherConfig(kind="live"), LORA),
    "base_kl": (DistillConfig(kl_base_coef=0.2, is_clip=2.0), FROZEN, LoraConfig()),
    "topk": (DistillConfig(support="topk", topk=8, tail="bucket"), FROZEN, LoraConfig()),
}


def config_of(case: str) -> Config:
    made = config()
    made.distill, made.teacher, lora = CASES[case]
    made.train = TrainConfig(
        steps=2, batch=4, micro=2, max_response=12, lr=1e-3, warmup=0, checkpoint_every=2, seed=5, lora=lora
    )
    return made


def run(case: str, model: Path, out: Path, ranks: Ranks) -> None:
    students, teachers = prompts(model)
    names = list(students)
    aux = {
        "ctx_only": {uid: teachers[uid].ids[: -len(students[uid])] or students[uid] for uid in names},
        "random_ctx": {uid: teachers[names[i - 2]].ids + students[uid] for i, uid in enumerate(names)},
    }
    algorithm = Distillation(teacher_prompts=teachers, aux_prompts=aux)
    train_on(config_of(case), algorithm, students, model, out / case, ranks, client_of(ranks))


if __name__ == "__main__":
    main(run)
