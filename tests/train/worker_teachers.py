"""Every kind of teacher, and LoRA, on real ZeRO-3 engines with worker_engines.py's canned responses.

Run by tests/engine/worker_ranks.py: `main(ranks, job)` with job = {models, out, cases, alone}; rank 0 leaves
OUT/CASE.pt, or OUT/CASE_alone.pt from a run of one rank.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from nopsd.config import Config, LoraConfig, TeacherConfig
from nopsd.engine.distributed import Ranks
from nopsd.engine.lora import STUDENT, TEACHER, adapter_parameters, computing_with
from nopsd.rollout.weight_source import WeightSource
from nopsd.train import checkpoint, resuming
from nopsd.train.export import export_model, probe_logits
from nopsd.train.loop import train
from nopsd.train.run import TrainingRun

sys.path.insert(0, str(Path(__file__).parent))
import worker_engines as engines  # noqa: E402

PROBE = engines.STUDENT_PROMPTS["q0"]


def config_of(kind: str, mix: float = 0.5, r: int = 0, steps: int = 3) -> Config:
    config = engines.config_of(2, steps=steps)
    config.teacher = TeacherConfig(kind=kind, rate=0.1, mix=mix)
    config.train.lora = LoraConfig(r=r, alpha=8, dropout=0.0)
    return config


def build(config: Config, job: dict[str, Any], ranks: Ranks, name: str, aligned: bool = False) -> TrainingRun:
    prompts = engines.NO_DEMONSTRATIONS if aligned else engines.TEACHER_PROMPTS
    return engines.build(config, Path(job["models"]) / "tied", Path(job["out"]) / name, ranks, prompts)


def whole(parameters: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Gathered copies, whatever the parameters' kind."""
    import deepspeed

    found = {}
    for name, parameter in parameters.items():
        with deepspeed.zero.GatheredParameters([parameter]):
            found[name] = parameter.detach().clone()
    return found


def case_kinds(job: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Three steps of each; rows, what the student became, and which second engines there were."""
    found: dict[str, Any] = {}
    for name, config in {
        "frozen": config_of("frozen"),
        "ema": config_of("ema"),
        "live": config_of("live"),
        "mixed": config_of("trust_region"),
        "mixed0": config_of("trust_region", 0.0),
        "mixed1": config_of("trust_region", 1.0),
    }.items():
        d = build(config, job, ranks, name)
        train(d)
        student = whole(dict(d.student.module.lm.named_parameters()))
        found[name] = {"rows": list(d.log), "student": student, "second": d.algorithm.teacher_engine is not None}
    return found


def case_align(job: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Equal prompts: a live teacher agrees with the student at every step, however far it has gone."""
    d = build(config_of("live"), job, ranks, "live", aligned=True)
    train(d)
    lora = build(config_of("frozen", r=4, steps=1), job, ranks, "lora", aligned=True)
    train(lora)
    return {"live": list(d.log), "lora": list(lora.log)}


def case_lora(job: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Three steps against the model's own base; what moved, what is pushed, exported and checkpointed."""
    config = config_of("frozen", r=4)
    d = build(config, job, ranks, "lora")
    lm = d.student.module.lm
    before = whole(dict(lm.named_parameters()))
    train(d)
    after = whole(dict(lm.named_parameters()))
    pushed = [(name, None if t is None else t.clone()) for name, t in WeightSource(lm, ranks.is_main).stream()]
    folder = Path(job["out"]) / "export"
    difference = export_model(lm, Path(job["models"]) / "tied", folder, PROBE, ranks, lora=config.train.lora)
    logits = probe_logits(lm, PROBE)
    with computing_with(lm, None):
        base = probe_logits(lm, PROBE)
    metas = [(m.name, list(m.shape)) for m in WeightSource(lm, ranks.is_main).metas()]
    trained = {n for n, p in lm.named_parameters() if p.requires_grad}
    files = {p.name: p.stat().st_size for p in (Path(job["out"]) / "lora" / "checkpoints" / "step_00000003").iterdir()}
    optimizer = sum(t.numel() for t in d.student.optimizer.fp32_partitioned_groups_flat)
    return {
        "rows": list(d.log),
        "before": before,
        "after": after,
        "pushed": pushed,
        "metas": metas,
        "base": base,
        "logits": logits,
        "difference": difference,
        "trained": sorted(trained),
        "files": files,
        "second": d.algorithm.teacher_engine is not None,
        "optimizer": optimizer,
        "folder": str(folder),
    }


def case_lora_ema(job: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """The averaged adapter after each step, then a resume in fresh engines from step 2."""
    config = config_of("ema", r=4)
    if ranks.world == 1:
        return resumed(config, job, ranks)
    d = build(config, job, ranks, "lora_ema")
    lm = d.student.module.lm
    path = [whole(adapter_parameters(lm, STUDENT))]
    d.progress = lambda *_, **__: path.append(whole(adapter_parameters(lm, STUDENT)))
    train(d)
    teacher = whole(adapter_parameters(lm, TEACHER))
    folder = Path(job["out"]) / "lora_ema" / "checkpoints"
    if ranks.is_main:
        (folder / "step_00000003" / checkpoint.COMMITTED).unlink()
    ranks.barrier()
    again = resumed(config, job, ranks)
    if ranks.is_main:
        (folder / "step_00000003" / checkpoint.COMMITTED).unlink()  # once more, for the run of one rank
    return {"path": path, "teacher": teacher, "rows": list(d.log), "again": again, "followed": sorted(d.ema.master)}


def resumed(config: Config, job: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Fresh engines, the newest committed checkpoint, and on to the end."""
    found = resuming.latest_valid(Path(job["out"]) / "lora_ema" / "checkpoints", {"test": 1}, ranks)
    assert found is not None
    d = build(config, job, ranks, "lora_ema")
    resuming.load(d.student, d.ema, found, ranks)
    train(d, found.step, found.skipped)
    lm = d.student.module.lm
    return {
        "rows": list(d.log),
        "from": found.step,
        "student": whole(adapter_parameters(lm, STUDENT)),
        "teacher": whole(adapter_parameters(lm, TEACHER)),
    }


CASES = {"kinds": case_kinds, "align": case_align, "lora": case_lora, "lora_ema": case_lora_ema}


def main(ranks: Ranks, job: dict[str, Any]) -> None:
    for case in job["cases"] if ranks.world > 1 else job["alone"]:
        found = CASES[case](job, ranks)
        if ranks.is_main:
            torch.save(found, Path(job["out"]) / f"{case}{'' if ranks.world > 1 else '_alone'}.pt")
    ranks.barrier()
