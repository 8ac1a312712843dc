"""The distillation stage: engines, resume, the loop, the export (SPEC §6; stage 4).

In: the selected questions' student and teacher prompts (token ids), the base model's folder, a client of a
running rollout server. Out, in FOLDER: checkpoints/ while it trains, and export/, the finished model; the
stage is done once export/ is there. Run by every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nopsd.config import TRAIN_CONDUCT, Config, to_plain
from nopsd.data.prompts import TeacherPrompt
from nopsd.distill import checkpoint
from nopsd.distill.algorithm import distill
from nopsd.distill.batches import micro_batches_per_rank
from nopsd.distill.export import RECORD, export_model
from nopsd.distill.head import DistillModel
from nopsd.distill.score import keep_of
from nopsd.distill.state import Distillation, Log
from nopsd.distill.targets import OTHER_PROMPTS, auxiliaries
from nopsd.distill.teachers import follower
from nopsd.engine.distributed import Ranks
from nopsd.engine.ds_config import host_values, load_ds_config
from nopsd.engine.ema import ShardedEma
from nopsd.engine.frozen import load_frozen
from nopsd.engine.student import load_student
from nopsd.errors import ArtefactError, DataError
from nopsd.rollout.weight_sync import open_weight_sync
from nopsd.runs import read_json, sha256_json

PROBE_TOKENS = 64


def train(
    config: Config, selected: Sequence[str], student_prompts: Mapping[str, list[int]],
    teacher_prompts: Mapping[str, TeacherPrompt], model_path: Path, client: Any, ranks: Ranks,
    folder: Path, open_log: Callable[[int], Log] | None = None, progress: Callable[..., None] | None = None,
    probe: Callable[[int], dict[str, float]] | None = None,
    style_ids: Sequence[int] = (), aux_prompts: Mapping[str, Mapping[str, list[int]]] | None = None,
) -> None:
    """Distil into FOLDER/export; goes on from the newest whole checkpoint, and does nothing if the export is there.

    `client` (a RolloutClient) and `open_log(resume_step)` are used on rank 0 alone. `aux_prompts`: for the objective's
    further distributions (`targets.OTHER_PROMPTS`), name -> uid -> ids. Collective. Raises
    UserErrors: no questions, artefacts of another run, a server that fails or holds other weights.
    """
    check_prompts(selected, student_prompts, teacher_prompts)
    aux_prompts = needed_aux_prompts(config, selected, aux_prompts or {})
    identity = identity_of(config, selected, student_prompts, teacher_prompts, aux_prompts)
    if already_exported(folder / "export", identity, ranks):
        return
    student, teacher, ema = load_engines(config, model_path, ranks)
    sync = open_weight_sync(student.module.lm, client, config.server, ranks.rank, ranks.device)
    try:
        found = checkpoint.latest_valid(folder / "checkpoints", identity, ranks)
        step, skipped = (found.step, found.skipped) if found else (0, 0)
        if found:
            checkpoint.load(student, ema, found, ranks)
        log = open_log(step) if open_log and ranks.is_main else None
        distill(
            Distillation(
                config, list(selected), student_prompts, teacher_prompts, student, teacher, ema, client, sync, ranks,
                folder, log, progress, identity, pad=pad_id(student.module.lm),
                probe=probe,
                style_ids=tuple(style_ids),
                aux_prompts=aux_prompts,
            ),
            step, skipped,
        )
    finally:
        sync.close()
    steps = take_best(config, student, ema, folder / "checkpoints", identity, ranks)
    shortest = min(student_prompts.values(), key=lambda ids: (len(ids), ids))[:PROBE_TOKENS]
    facts = {"identity": sha256_json(identity), "steps": steps, "base_model": str(model_path)}
    export_model(
        student.module.lm, model_path, folder / "export", shortest, ranks, facts=facts,
        trust_remote_code=config.model.trust_remote_code, lora=config.train.lora,
    )


def load_engines(config: Config, model_path: Path, ranks: Ranks) -> tuple[Any, Any, ShardedEma | None]:
    """Student engine, the teacher's own engine if it has one, and its moving average if it follows the student.

    A live teacher needs no second model, nor does any teacher under LoRA (`nopsd.distill.teachers`).
    """
    train, dist, dtype = config.train, config.dist, config.model.dtype
    device = "cpu" if ranks.device.type == "cpu" else "gpu"
    seed = config.train.seed or config.seed
    torch.manual_seed(seed + ranks.rank)
    accumulation = micro_batches_per_rank(train.batch * train.n, ranks.world, train.micro)
    host = host_values(dist)
    teacher_config = load_ds_config(dist.teacher_config, "teacher", device, train.micro, 1, 0.0, dtype, host=host)
    student_config = load_ds_config(
        dist.student_config, "student", device, train.micro, accumulation, train.clip, dtype, host=host
    )
    trusted = config.model.trust_remote_code
    kind = config.teacher.kind
    teacher = None
    if kind != "live" and not train.lora.r:
        teacher = load_frozen(str(model_path), dtype, teacher_config, trusted, packing=train.packing)
    student = load_student(
        model_path, dtype, student_config, train, lambda lm: DistillModel(lm, config.distill), trusted, seed,
        with_teacher_adapter=kind == "ema",
    )
    if kind != "ema":
        return student, teacher, None
    return student, teacher, ShardedEma(*follower(student.module.lm, teacher), config.teacher.rate)


def take_best(
    config: Config, student: Any, ema: ShardedEma | None, folder: Path, identity: Mapping[str, Any], ranks: Ranks
) -> int:
    """With `train.export: best`, load the best checkpoint. Returns how many steps the engines now hold. Collective."""
    if config.train.export == "last":
        return config.train.steps
    best = checkpoint.best_valid(folder, identity, keep_of(config.train), ranks)
    checkpoint.load(student, ema, best, ranks)
    return best.step


def pad_id(lm: torch.nn.Module) -> int:
    """Any valid id: padding is never looked at."""
    pad = getattr(lm.config, "pad_token_id", None)
    return pad if isinstance(pad, int) else 0


def check_prompts(
    selected: Sequence[str], student_prompts: Mapping[str, list[int]], teacher_prompts: Mapping[str, TeacherPrompt]
) -> None:
    if not selected:
        raise DataError("no question was selected: raise select.fraction or give more questions")
    for uid in selected:
        if uid not in student_prompts or uid not in teacher_prompts:
            raise DataError(f"question {uid} was selected but has no prompt: run the select stage again")


def needed_aux_prompts(
    config: Config, selected: Sequence[str], given: Mapping[str, Mapping[str, list[int]]]
) -> dict[str, dict[str, list[int]]]:
    """Those of the given prompts that the objective reads. DataError if one is missing."""
    names = [name for name in auxiliaries(config.distill) if name in OTHER_PROMPTS]
    for name in names:
        for uid in selected:
            if not given.get(name, {}).get(uid):
                raise DataError(
                    f"question {uid} has no {name} prompt, which distill.target={config.distill.target} and "
                    f"distill.contrast={config.distill.contrast} need: set them back to teacher and null"
                )
    return {name: {uid: given[name][uid] for uid in selected} for name in names}


def identity_of(
    config: Config, selected: Sequence[str], student_prompts: Mapping[str, list[int]],
    teacher_prompts: Mapping[str, TeacherPrompt], aux_prompts: Mapping[str, Mapping[str, list[int]]],
) -> dict[str, Any]:
    """What a checkpoint or export was made from, as far as this stage sees it."""
    train = {k: v for k, v in to_plain(config.train).items() if k not in TRAIN_CONDUCT}
    prompts = [
        [uid, student_prompts[uid], teacher_prompts[uid].ids, *(aux_prompts[name][uid] for name in sorted(aux_prompts))]
        for uid in sorted(selected)
    ]
    return {
        "train": train, "distill": to_plain(config.distill), "teacher": to_plain(config.teacher), "seed": config.seed,
        "dtype": config.model.dtype, "prompts": sha256_json(prompts),
    }


def already_exported(folder: Path, identity: Mapping[str, Any], ranks: Ranks) -> bool:
    """True on every rank if the export is there. ArtefactError if it is another run's."""

    def made_from() -> str | None:
        record = folder / RECORD
        return str(read_json(record)["identity"]) if record.is_file() else None

    found = ranks.broadcast_json(made_from() if ranks.is_main else None)
    if found is not None and found != sha256_json(identity):
        raise ArtefactError(f"{folder} was trained from other prompts or settings: choose another run_dir")
    return found is not None
