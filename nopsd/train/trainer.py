"""One training from its inputs to the exported model: identity, engines, resume, the loop, the export.

In: `TrainingInputs`. Out, in FOLDER: metrics and checkpoints/ while it trains, and export/, the finished model, made
from the last weights, from the best (`train.export`), or, after a guard's stop, from the best or last of before. The
training is done once export/ is there. Run by every rank.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from nopsd.config import shaping
from nopsd.engine.distributed import Ranks
from nopsd.engine.sequence_parallel import join
from nopsd.errors import ArtefactError, UserError
from nopsd.files import read_json, sha256_json
from nopsd.rollout.weight_sync import open_weight_sync
from nopsd.train import resuming
from nopsd.train.artefacts import EXPORT, RECORD
from nopsd.train.checkpoint import FOLDER
from nopsd.train.export import export_model
from nopsd.train.loop import train
from nopsd.train.neuron_mask import hold
from nopsd.train.run import TrainingInputs, TrainingRun

PROBE_TOKENS = 64
log = logging.getLogger(__name__)


def run_training(inputs: TrainingInputs) -> None:
    """Train into FOLDER/export; goes on from the newest whole checkpoint, and does nothing if the export is there.

    Collective. Raises UserErrors: no questions, settings that don't go together, artefacts of another run, a server
    that fails or holds other weights; Stopped, with the step saved, if `inputs.stop` is made.
    """
    config, ranks = inputs.config, inputs.ranks
    inputs.algorithm.check(inputs)
    identity = identity_of(inputs)
    if already_exported(inputs.folder / EXPORT, identity, ranks):
        return
    parallel = join(ranks, config.dist.sequence_parallel)
    student, ema = inputs.algorithm.load(inputs, parallel)
    if inputs.neurons is not None:
        others = config.train.neurons.learn == "protect"
        hold(student.module.lm, inputs.neurons, others, config.model.mlp_adapter)
    sync = None
    if inputs.replay is None and inputs.algorithm.needs_server(inputs):
        sync = open_weight_sync(student.module.lm, inputs.client, config.server, ranks.rank, ranks.device)
    try:
        run = TrainingRun(
            **{field.name: getattr(inputs, field.name) for field in fields(TrainingInputs)},
            student=student,
            ema=ema,
            sync=sync,
            identity=identity,
            pad=pad_id(student.module.lm),
            parallel=parallel,
        )
        done, skipped = resume(run)
        if done == 0:
            run.algorithm.before(run)
        if inputs.open_log is not None and ranks.is_main:
            run.log = inputs.open_log(done)
        if inputs.open_trace is not None and ranks.is_main:
            run.trace = inputs.open_trace(done)
            run.trace.also = run.log.responses if run.log is not None else None
        with closing(run.trace) if run.trace is not None else nullcontext():
            train(run, done, skipped)
    finally:
        if sync is not None:
            sync.close()
    export(run)


def identity_of(inputs: TrainingInputs) -> dict[str, Any]:
    """What a checkpoint or export was made from, as far as training sees it."""
    return {
        "train": shaping(inputs.config, "train"),
        **({"partial": share} if (share := inputs.config.rollout.partial) is not None else {}),
        "seed": inputs.config.seed,
        "dtype": inputs.config.model.dtype,
        **({} if inputs.neurons is None else {"neurons": hashlib.sha256(inputs.neurons.tobytes()).hexdigest()}),
        **inputs.algorithm.identity(inputs),
    }


def resume(run: TrainingRun) -> tuple[int, int]:
    """Load the newest whole checkpoint, if any. Steps done and steps skipped. Collective."""
    found = resuming.latest_valid(run.folder / FOLDER, run.identity, run.ranks)
    if found is None:
        return 0, 0
    resuming.load(run.student, run.ema, found, run.ranks)
    run.extras = found.extras
    return found.step, found.skipped


def export(run: TrainingRun) -> None:
    """Export what the run made, with the base model's own files beside it. Collective. UserError: `load_best`."""
    stopped = run.guards.stopped
    facts = {
        "steps": load_best(run),
        "chosen": run.config.train.export,
        "stopped": asdict(stopped) if stopped else None,
    }
    write_export(run, run.student, run.identity, run.folder / EXPORT, facts)


def export_checkpoint(inputs: TrainingInputs, step: int, folder: Path) -> None:
    """Export a kept checkpoint; nothing is trained, and nothing is served. Collective.

    Args:
        inputs: The training's, whose checkpoints lie in its folder.
        step: Which one.
        folder: Where to; it appears whole or not at all.

    Raises:
        ArtefactError: There is none of that step, or it is another run's.
    """
    inputs.algorithm.check(inputs)
    identity, ranks = identity_of(inputs), inputs.ranks
    student, ema = inputs.algorithm.load(inputs, join(ranks, inputs.config.dist.sequence_parallel))
    resuming.load(student, ema, resuming.of_step(inputs.folder / FOLDER, identity, step, ranks), ranks)
    write_export(inputs, student, identity, folder, {"steps": step, "chosen": str(step), "stopped": None})


def write_export(
    inputs: TrainingInputs, student: Any, identity: Mapping[str, Any], folder: Path, facts: Mapping[str, Any]
) -> None:
    """The student's weights as a folder, with the record of what they are. Collective."""
    config = inputs.config
    export_model(
        student.module.lm,
        inputs.model_path,
        folder,
        min(inputs.student_prompts.values(), key=lambda ids: (len(ids), ids))[:PROBE_TOKENS],
        inputs.ranks,
        facts={"identity": sha256_json(dict(identity)), "base_model": str(inputs.model_path), **facts},
        trust_remote_code=config.model.trust_remote_code,
        lora=config.train.lora,
    )


def load_best(run: TrainingRun) -> int:
    """Load the checkpoint to export, if that isn't the last weights. Returns its steps. Collective.

    With `train.export: best`, the best one, with a number that step's; after a guard's stop, the best, or the last of
    before the first sign. UserError if the run was stopped before it had one.
    """
    train, stopped, folder = run.config.train, run.guards.stopped, run.folder / FOLDER
    if not stopped and train.export == "last":
        return train.steps
    if not stopped:
        step = run.keep.step
        chosen = (
            resuming.best_valid(folder, run.identity, run.keep, run.ranks)
            if step is None
            else resuming.of_step(folder, run.identity, step, run.ranks)
        )
        resuming.load(run.student, run.ema, chosen, run.ranks)
        return chosen.step
    keep = replace(run.keep, last_good=run.guards.last_good_step)
    found = resuming.last_healthy(folder, run.identity, keep, run.ranks)
    if found is None:
        raise UserError(
            f"training was stopped after {stopped.step} steps, and there is no checkpoint from before to keep: "
            f"{stopped.reason}. Try a smaller train.lr or another objective; a smaller train.checkpoint_every keeps "
            f"earlier weights; guard.stop=false only warns. Then start again with --redo train"
        )
    resuming.load(run.student, run.ema, found, run.ranks)
    if run.ranks.is_main:
        log.warning("exporting the checkpoint of step %d", found.step)
    return found.step


def already_exported(folder: Path, identity: Mapping[str, Any], ranks: Ranks) -> bool:
    """Whether the export is there, on every rank.

    Raises:
        ArtefactError: It is another run's.
    """
    found = None
    if ranks.is_main and (folder / RECORD).is_file():
        found = str(read_json(folder / RECORD)["identity"])
    found = ranks.broadcast_json(found)
    if found is not None and found != sha256_json(identity):
        raise ArtefactError(f"{folder} was trained from other prompts or settings: choose another run_dir")
    return found is not None


def pad_id(lm: torch.nn.Module) -> int:
    """Any valid id: padding is never read."""
    pad = getattr(lm.config, "pad_token_id", None)
    return pad if isinstance(pad, int) else 0
