"""`nopsd export`: a kept checkpoint of a run's training as a Hugging Face folder beside the run's own export.

In: RUN/train/checkpoints, and what the train stage reads. Out: RUN/exports/step-N, with its record and model card.
The run's stages stay as they are. Ranks are started as for the train stage, without a server.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nopsd.cluster import rank
from nopsd.cluster.planning import check_hosts, make_plan
from nopsd.cluster.stage_launcher import launch_stage
from nopsd.config import METHODS, Config, to_yaml
from nopsd.errors import UserError
from nopsd.evaluation.artefacts import METRICS
from nopsd.files import read_json, write_atomic, write_json
from nopsd.keys import without_keys
from nopsd.run import runner
from nopsd.run.folder import EVALUATE, TRAIN, RunFolder, read_json_if_there
from nopsd.run.lock import run_lock
from nopsd.run.progress import StageProgress
from nopsd.run.session import Session
from nopsd.stages.card import write_card
from nopsd.train.artefacts import EXPORTS, LABELS_SHOWN, RECORD, choice_note, shows_labels

NAME = "export"  # the command, which the ranks run too
STEP_VARIABLE = "NOPSD_EXPORT_STEP"  # tells them which
SETTINGS = "export.yaml"  # in the run folder while they work: the command's settings


def folder_of(run: RunFolder, step: int) -> Path:
    """Where the export of a step lies."""
    return run.root / EXPORTS / f"step-{step}"


def kept(run: RunFolder) -> list[dict[str, Any]]:
    """Marks of the committed checkpoints, newest first. UserError if there is none."""
    from nopsd.train.checkpoint import FOLDER, marks

    folder = run.stage_dir(TRAIN) / FOLDER
    found = marks(folder) if folder.is_dir() else []
    if not found:
        raise UserError(f"{folder} holds no checkpoint: train first, or with a smaller train.checkpoint_every")
    return found


def listed(config: Config) -> str:
    """A line a kept checkpoint, oldest first: its steps, and its score if it has one."""
    lines = []
    for mark in reversed(kept(RunFolder(config.run_dir))):
        score = "" if mark["score"] is None else f"   {mark['score_by']} {mark['score']:.5g} since the one before"
        lines.append(f"step {mark['step']}{score}")
    return "\n".join([*lines, "`nopsd export RUN --step N` exports one of them"])


def export(config: Config, step: int) -> str:
    """Export the checkpoint of a step, unless it is there; returns what to print.

    Raises:
        UserError: No such checkpoint is kept, it is another run's, or the ranks failed.
    """
    with Session(config) as session:
        run, folder = session.run, folder_of(session.run, step)
        steps = [mark["step"] for mark in kept(run)]
        if step not in steps:
            raise UserError(
                f"no checkpoint of step {step} is kept in {run.stage_dir(TRAIN)}: there are those of "
                f"{', '.join(map(str, sorted(steps)))} (train.keep_checkpoints and train.keep_best keep more)"
            )
        runner.check_writable(session)
        with run_lock(run.root), StageProgress(f"export: step {step}", 1, 1) as progress:
            if (folder / RECORD).is_file():
                progress.up_to_date()
            else:
                start_ranks(session, step)
        note = record_choice(session, folder)
    evaluated = f"nopsd eval --config {run.root / 'config.yaml'} model.path={folder}"
    return "\n".join(filter(None, (f"model     {folder}", f"evaluate  {evaluated}", note)))


def start_ranks(session: Session, step: int) -> None:
    """The work of all ranks, on the hosts that would train."""
    check_hosts(session.config, session.run.root)
    settings = session.run.root / SETTINGS
    write_atomic(settings, to_yaml(without_keys(session.config)))
    try:
        launch_stage(
            NAME,
            settings,
            make_plan(session.config, session.run.root),
            session.config.dist,
            session.log_path(NAME),
            {STEP_VARIABLE: str(step)},
            None,
        )
    finally:
        settings.unlink(missing_ok=True)


def export_as_rank(config: Config) -> None:
    """One rank's part. UserError if no command of ours says which step."""
    from nopsd.cluster.agreement import check_agreement
    from nopsd.engine.distributed import init_distributed, shutdown_distributed
    from nopsd.stages.train import export_kept

    step = os.environ.get(STEP_VARIABLE, "")
    if not step.isdecimal():
        raise UserError("`nopsd export` starts deepspeed by itself: run it without a launcher")
    if METHODS[config.method].trainer is None:
        raise UserError(f"method={config.method} trains nothing: there is no checkpoint")
    with Session(config) as session:
        with rank.rendezvous(config.dist.timeout_s):
            session.ranks = init_distributed(config.dist)
        check_agreement(session.ranks, config)
        export_kept(session, int(step), folder_of(session.run, int(step)))
    shutdown_distributed()


def record_choice(session: Session, folder: Path) -> str:
    """Write into the export whether judged figures were there when it was chosen, and its model card; the note."""
    run = session.run
    record = read_json(folder / RECORD)
    if LABELS_SHOWN not in record:
        judged = read_json_if_there(run.stage_dir(EVALUATE) / METRICS)
        record[LABELS_SHOWN] = shows_labels(run.training_metrics()) or any(judged.values())
        write_json(folder / RECORD, record)
    write_card(session, run.training_plan(), record, folder=folder)
    return choice_note(record, False)
