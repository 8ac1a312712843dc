"""Where a training stage begins and ends: resume from the newest whole checkpoint, export the finished model.

In: the student's engine and the run's folder. Out: FOLDER/export, made from the last weights, from the best (SPEC §6.2,
`train.export`), or, after a guard's stop, from the best of before.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from nopsd.config import Config
from nopsd.engine.distributed import Ranks
from nopsd.engine.ema import ShardedEma
from nopsd.errors import ArtefactError, UserError
from nopsd.files import read_json, sha256_json
from nopsd.train import checkpoint
from nopsd.train.artefacts import EXPORT
from nopsd.train.export import RECORD, export_model
from nopsd.train.guards import Stop
from nopsd.train.score import keep_of
from nopsd.train.state import TrainingRun

PROBE_TOKENS = 64
logger = logging.getLogger(__name__)


def resume(
    student: Any, ema: ShardedEma | None, folder: Path, identity: Mapping[str, Any], ranks: Ranks
) -> tuple[int, int, dict[str, Any]]:
    """Load the newest whole checkpoint. Its steps done, steps skipped and extras; 0, 0, {} without one. Collective."""
    found = checkpoint.latest_valid(folder / "checkpoints", identity, ranks)
    if found is None:
        return 0, 0, {}
    checkpoint.load(student, ema, found, ranks)
    return found.step, found.skipped, found.extras


def finish(run: TrainingRun, model_path: Path) -> None:
    """Export what the run made, with the base model's own files beside it. Collective. UserError: `take_sound`."""
    config, student, folder, ranks = run.config, run.student, run.folder, run.ranks
    stopped, checkpoints = run.guards.stopped, folder / "checkpoints"
    if stopped:
        steps = take_sound(stopped, run.guards.sound_step, config, student, run.ema, checkpoints, run.identity, ranks)
    else:
        steps = take_best(config, student, run.ema, checkpoints, run.identity, ranks)
    shortest = min(run.student_prompts.values(), key=lambda ids: (len(ids), ids))[:PROBE_TOKENS]
    facts = {"identity": sha256_json(run.identity), "steps": steps, "base_model": str(model_path)}
    facts["stopped"] = asdict(stopped) if stopped else None
    export_model(
        student.module.lm,
        model_path,
        folder / EXPORT,
        shortest,
        ranks,
        facts=facts,
        trust_remote_code=config.model.trust_remote_code,
        lora=config.train.lora,
    )


def take_best(
    config: Config, student: Any, ema: ShardedEma | None, folder: Path, identity: Mapping[str, Any], ranks: Ranks
) -> int:
    """With `train.export: best`, load the best checkpoint. Returns how many steps the engines now hold. Collective."""
    if config.train.export == "last":
        return config.train.steps
    best = checkpoint.best_valid(folder, identity, keep_of(config.train), ranks)
    checkpoint.load(student, ema, best, ranks)
    return best.step


def take_sound(
    stopped: Stop,
    sound: int | None,
    config: Config,
    student: Any,
    ema: ShardedEma | None,
    folder: Path,
    identity: Mapping[str, Any],
    ranks: Ranks,
) -> int:
    """After a stop, load the best checkpoint, or the last of before the first sign. Returns its steps. Collective.

    UserError if the run was stopped before it had one.
    """
    found = checkpoint.sound_valid(folder, identity, keep_of(config.train, sound), ranks)
    if found is None:
        raise UserError(
            f"training was stopped after {stopped.step} steps, and there is no checkpoint from before to keep: "
            f"{stopped.reason}. Try a smaller train.lr or another objective; a smaller train.checkpoint_every keeps "
            f"earlier weights; guard.stop=false only warns. Then start again with --redo train"
        )
    checkpoint.load(student, ema, found, ranks)
    if ranks.is_main:
        logger.warning("exporting the checkpoint of step %d", found.step)
    return found.step


def pad_id(lm: torch.nn.Module) -> int:
    """Any valid id: padding is never looked at."""
    pad = getattr(lm.config, "pad_token_id", None)
    return pad if isinstance(pad, int) else 0


def already_exported(folder: Path, identity: Mapping[str, Any], ranks: Ranks) -> bool:
    """True on every rank if the export is there. ArtefactError if it is another run's."""

    def made_from() -> str | None:
        record = folder / RECORD
        return str(read_json(record)["identity"]) if record.is_file() else None

    found = ranks.broadcast_json(made_from() if ranks.is_main else None)
    if found is not None and found != sha256_json(identity):
        raise ArtefactError(f"{folder} was trained from other prompts or settings: choose another run_dir")
    return found is not None
