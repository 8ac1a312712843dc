"""Two steps of the loop however they are cut: over ranks, budgets, packing, ranks that share a sequence.

Run by ../engine/worker_ranks.py. job: model (folder), out (folder), cases: {size: {name: keys}} with the keys of
`SETTINGS`. Rank 0 leaves OUT/NAME-SIZE.pt: the log's rows, the optimizer's mean gradient after each step, the weights,
and how many micro-batches each step had.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from worker_engines import STUDENT_PROMPTS, TEACHER_PROMPTS, UIDS, NoSync, Rows, ids, whole
from worker_objectives import AUX_PROMPTS, CASES

from nopsd.config import Config, LoraConfig, TeacherConfig, TrainConfig
from nopsd.engine.distributed import Ranks
from nopsd.engine.sequence_parallel import join
from nopsd.rollout.types import Rollout
from nopsd.train import loop
from nopsd.train.algorithms.distill import Distillation, load_engines
from nopsd.train.export import export_model
from nopsd.train.run import TrainingRun

SETTINGS = {"micro": 8, "micro_tokens": None, "packing": True, "shared_by": 1, "lora": 0, "checkpointing": False}


class TwoEach:
    """Two responses a prompt, with log-probs; long ones in the first step, short ones in the second."""

    def generate(self, prompts, uids, sampling, seed, expected_version=None, logprobs=False):
        low, high = (8, 24) if expected_version == 0 else (1, 5)
        rows = []
        for prompt, uid in zip(prompts, uids):
            responses = [ids(f"{uid}/{seed}/{k}", low, high) for k in range(sampling.n)]
            rows.append(
                [
                    Rollout(uid, k, prompt, r, "", "stop", expected_version, seed, [-5.0 - i % 3 for i in r])
                    for k, r in enumerate(responses)
                ]
            )
        return rows


def config_of(settings: dict[str, Any]) -> Config:
    config = Config(
        train=TrainConfig(
            steps=2,
            batch=4,
            n=2,
            micro=settings["micro"],
            micro_tokens=settings["micro_tokens"],
            packing=settings["packing"],
            lr=1e-3,
            warmup=0,
            clip=0.0,
            sync_check_every=0,
            gradient_checkpointing=settings["checkpointing"],
            lora=LoraConfig(r=settings["lora"]),
        ),
        teacher=TeacherConfig(kind="ema" if settings["lora"] else "frozen", rate=0.1),
    )
    config.distill = CASES["contrast" if settings["lora"] else "pmi"]
    config.dist.sequence_parallel = settings["shared_by"]
    return config


def run(ranks: Ranks, model: Path, folder: Path, settings: dict[str, Any], export: bool) -> dict[str, Any]:
    config = config_of(settings)
    parallel = join(ranks, config.dist.sequence_parallel)
    student, teacher, ema = load_engines(config, model, ranks, parallel)
    d = TrainingRun(
        config=config,
        algorithm=Distillation(teacher_prompts=TEACHER_PROMPTS, teacher_engine=teacher, aux_prompts=AUX_PROMPTS),
        model_path=model,
        selected=UIDS,
        student_prompts=STUDENT_PROMPTS,
        student=student,
        ema=ema,
        client=TwoEach(),
        sync=NoSync(),
        ranks=ranks,
        folder=folder,
        log=Rows(),
        identity={"test": 1},
        parallel=parallel,
    )
    counts: list[int] = []
    means: list[dict[str, torch.Tensor]] = []
    true_batches = loop.rank_micro_batches

    def counted(*args: Any) -> Any:
        batches = true_batches(*args)
        counts.append(len(batches))
        return batches

    def gathered(state: str | None = None) -> dict[str, torch.Tensor]:
        if not settings["lora"]:
            return whole(d, state)
        kept, d.student.module.lm = d.student.module.lm, Trained(d.student.module.lm)
        found = whole(d, state)
        d.student.module.lm = kept
        return found

    d = replace(d, progress=lambda *_, **__: means.append(gathered("exp_avg")))
    loop.rank_micro_batches = counted
    try:
        loop.train(d)
    finally:
        loop.rank_micro_batches = true_batches
    if export:
        export_model(d.student.module.lm, model, folder / "export", STUDENT_PROMPTS["q0"], ranks)
    return {"rows": list(d.log or ()), "means": means, "weights": gathered(), "counts": counts}


class Trained(torch.nn.Module):
    """Of a model with adapters, the parameters that are trained."""

    def __init__(self, lm: Any) -> None:
        super().__init__()
        self.trained = [(n, p) for n, p in lm.named_parameters() if p.requires_grad]

    def named_parameters(self, *_: Any, **__: Any) -> Any:
        return iter(self.trained)


def main(ranks: Ranks, job: dict[str, Any]) -> None:
    out = Path(job["out"])
    for name, keys in job["cases"][str(ranks.world)].items():
        folder = out / f"{name}-{ranks.world}"
        found = run(ranks, Path(job["model"]), folder, {**SETTINGS, **keys}, name in job["exported"])
        if ranks.is_main:
            torch.save(found, out / f"{name}-{ranks.world}.pt")
