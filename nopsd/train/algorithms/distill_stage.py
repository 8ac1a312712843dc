"""The distillation stage: engines, resume, the loop, the export (SPEC §6; stage 4).

In: the selected questions' student and teacher prompts (token ids), the base model's folder, a client of a
running rollout server. Out, in FOLDER: checkpoints/ while it trains, and export/, the finished model; the
stage is done once export/ is there. Run by every rank.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nopsd.config import DISTILL_CONDUCT, TEACHER_CONDUCT, TRAIN_CONDUCT, Config, to_plain
from nopsd.data.prompts import TeacherPrompt
from nopsd.engine.distributed import Ranks
from nopsd.engine.ds_config import role_configs
from nopsd.engine.ema import ShardedEma
from nopsd.engine.frozen import load_frozen
from nopsd.engine.sequence_parallel import ALONE, SequenceParallel, check_shareable, join, split_sequences
from nopsd.engine.stopping import StopRequest
from nopsd.engine.student import load_student
from nopsd.errors import DataError
from nopsd.files import sha256_json
from nopsd.rollout.weight_sync import open_weight_sync
from nopsd.train.algorithms.distill import distill
from nopsd.train.algorithms.distill_state import Distillation
from nopsd.train.artefacts import EXPORT
from nopsd.train.closing import already_exported, finish, pad_id, resume
from nopsd.train.losses.head import DistillModel
from nopsd.train.losses.targets import OTHER_PROMPTS, auxiliaries
from nopsd.train.planning import check_budget
from nopsd.train.state import Log
from nopsd.train.teachers import follower

PROBE_TOKENS = 64
logger = logging.getLogger(__name__)


def train(
    config: Config,
    selected: Sequence[str],
    student_prompts: Mapping[str, list[int]],
    teacher_prompts: Mapping[str, TeacherPrompt],
    model_path: Path,
    client: Any,
    ranks: Ranks,
    folder: Path,
    open_log: Callable[[int], Log] | None = None,
    progress: Callable[..., None] | None = None,
    probe: Callable[[int], dict[str, float]] | None = None,
    style_ids: Sequence[int] = (),
    aux_prompts: Mapping[str, Mapping[str, list[int]]] | None = None,
    stop: StopRequest | None = None,
) -> None:
    """Distil into FOLDER/export; goes on from the newest whole checkpoint, and does nothing if the export is there.

    `client` (a RolloutClient) and `open_log(resume_step)` are used on rank 0 alone. `aux_prompts`: for the objective's
    further distributions (`targets.OTHER_PROMPTS`), name -> uid -> ids. Collective. Raises
    UserErrors: no questions, artefacts of another run, a server that fails or holds other weights; Stopped, with the
    step saved, if `stop` is made.
    """
    check_prompts(selected, student_prompts, teacher_prompts)
    lengths = [len(teacher_prompts[uid].ids) for uid in selected]
    check_budget(config.train.micro_tokens, min(lengths), max(lengths), config.train.max_response)
    aux_prompts = needed_aux_prompts(config, selected, aux_prompts or {})
    identity = identity_of(config, selected, student_prompts, teacher_prompts, aux_prompts)
    if already_exported(folder / EXPORT, identity, ranks):
        return
    parallel = join(ranks, config.dist.sequence_parallel)
    student, teacher, ema = load_engines(config, model_path, ranks, parallel)
    sync = open_weight_sync(student.module.lm, client, config.server, ranks.rank, ranks.device)
    try:
        step, skipped, extras = resume(student, ema, folder, identity, ranks)
        run = Distillation(
            config=config,
            selected=list(selected),
            student_prompts=student_prompts,
            teacher_prompts=teacher_prompts,
            student=student,
            teacher=teacher,
            ema=ema,
            client=client,
            sync=sync,
            ranks=ranks,
            folder=folder,
            identity=identity,
            log=open_log(step) if open_log and ranks.is_main else None,
            progress=progress,
            pad=pad_id(student.module.lm),
            probe=probe,
            style_ids=tuple(style_ids),
            aux_prompts=aux_prompts,
            extras=extras,
            stop=stop or StopRequest(),
            parallel=parallel,
        )
        distill(run, step, skipped)
    finally:
        sync.close()
    finish(run, model_path)


def load_engines(
    config: Config, model_path: Path, ranks: Ranks, parallel: SequenceParallel = ALONE
) -> tuple[Any, Any, ShardedEma | None]:
    """Student engine, the teacher's own engine if it has one, and its moving average if it follows the student.

    A live teacher needs no second model, nor does any teacher under LoRA (`nopsd.train.teachers`). `parallel`: the
    ranks that compute a sequence together (`join`). ConfigError, before any weight is read, if they can't.
    """
    train, dtype = config.train, config.model.dtype
    check_shareable(model_path, parallel, config.model.trust_remote_code)
    device = "cpu" if ranks.device.type == "cpu" else "gpu"
    seed = config.train.seed
    torch.manual_seed(seed + ranks.rank)
    student_config, teacher_config = role_configs(config, device)
    trusted = config.model.trust_remote_code
    kind = config.teacher.kind
    teacher = None
    if kind != "live" and not train.lora.r:
        teacher = load_frozen(
            str(model_path),
            dtype,
            teacher_config,
            trusted,
            packing=train.packing,
            prepare=lambda lm: split_sequences(lm, parallel),
        )

    def wrap(lm: Any) -> DistillModel:
        split_sequences(lm, parallel)
        return DistillModel(lm, config.distill)

    student = load_student(
        model_path, dtype, student_config, train, wrap, trusted, seed, with_teacher_adapter=kind == "ema"
    )
    if kind != "ema":
        return student, teacher, None
    return student, teacher, ShardedEma(*follower(student.module.lm, teacher), config.teacher.rate)


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
    config: Config,
    selected: Sequence[str],
    student_prompts: Mapping[str, list[int]],
    teacher_prompts: Mapping[str, TeacherPrompt],
    aux_prompts: Mapping[str, Mapping[str, list[int]]],
) -> dict[str, Any]:
    """What a checkpoint or export was made from, as far as this stage sees it."""
    train = {k: v for k, v in to_plain(config.train).items() if k not in TRAIN_CONDUCT}
    distill = {k: v for k, v in to_plain(config.distill).items() if k not in DISTILL_CONDUCT}
    teacher = {k: v for k, v in to_plain(config.teacher).items() if k not in TEACHER_CONDUCT}
    prompts = [
        [uid, student_prompts[uid], teacher_prompts[uid].ids, *(aux_prompts[name][uid] for name in sorted(aux_prompts))]
        for uid in sorted(selected)
    ]
    return {
        "train": train,
        "distill": distill,
        "teacher": teacher,
        "seed": config.seed,
        "dtype": config.model.dtype,
        "prompts": sha256_json(prompts),
    }
