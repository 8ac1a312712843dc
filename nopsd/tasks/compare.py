"""A comparison's runs, one after the other or side by side, and then its tables.

In: a plan (`nopsd.reporting.compare.plan`). Out: FOLDER/runs/LABEL-SOURCE-SEED, ordinary run folders;
FOLDER/compare.md, .html, tables/, figures/. The same plan continues where it was: finished runs are left alone, broken
ones continue, and stages that two runs would make alike are made once. One set of rollout servers serves all runs, or
with `parallel` all that one worker does (nopsd.tasks.compare_parallel).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from nopsd.data.sources.others import load_run_splits
from nopsd.errors import Stopped, UserError
from nopsd.evaluation.judge import Judge
from nopsd.files import flatten, write_atomic
from nopsd.reporting.compare.gathering import view_of
from nopsd.reporting.compare.plan import Member, Plan, base_of, members, target_config
from nopsd.reporting.compare.report import write_comparison
from nopsd.reporting.compare.reuse import reuse_stages
from nopsd.reporting.table import Table, as_record, markdown
from nopsd.run import runner
from nopsd.run.folder import RunFolder
from nopsd.run.lock import run_lock
from nopsd.run.progress import duration
from nopsd.run.rounds import check_one_round
from nopsd.run.server_cache import CachedServerSession, ServerCache
from nopsd.run.session import Session
from nopsd.run.stage import Stage
from nopsd.selection.names import check_names
from nopsd.stages.registry import STAGES
from nopsd.tasks.compare_parallel import Task, Workers, outcome, refuse_shared, shares_of
from nopsd.tasks.compare_stages import SHARED, stages_of
from nopsd.tasks.extra_evaluations import extra_evaluations, tests_key, tests_of


def run_plan(plan: Plan, as_json: bool = False) -> int:
    """Everything that is not there yet, then the tables. Returns 1 if a run failed.

    With `as_json` standard output gets the tables and the failures as JSON, and standard error the progress.
    """
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        tables, failed = run_all(plan)
    root = Path(plan.folder)
    if as_json:
        print(json.dumps({"tables": {t.name: as_record(t) for t in tables}, "failed": failed}, indent=1))
    else:
        print(closing(tables, root, failed))
    return 1 if failed else 0


def run_all(plan: Plan) -> tuple[list[Table], dict[str, str]]:
    """The tables, and the errors of the runs that failed, by name."""
    runs = members(plan)
    check_before(plan, runs)
    root = Path(plan.folder)
    root.mkdir(parents=True, exist_ok=True)
    with run_lock(root):
        return run_members(plan, runs, root)


def run_members(plan: Plan, runs: Sequence[Member], root: Path) -> tuple[list[Table], dict[str, str]]:
    """In the comparison's folder, which nobody else works in."""
    write_atomic(root / "plan.yaml", yaml.safe_dump(OmegaConf.to_container(OmegaConf.structured(plan))))
    failed: dict[str, str] = {}
    if plan.parallel > 1:
        run_side_by_side(plan, runs, root, failed)
        return write_comparison(root, view_of(plan, runs, failed)), failed
    clock = Eta(len(runs))
    with ServerCache(root) as servers:
        for member in runs:
            print(f"\n=== {clock.text()}: {member.name}", flush=True)
            began = time.monotonic()
            made = guarded(member.name, failed, servers, partial(run_member, member, runs, servers))
            if made is not False:
                clock.add(time.monotonic() - began)
            clock.done += 1
        for name, work in extra_evaluations(plan, runs, servers):
            guarded(name, failed, servers, work)
    return write_comparison(root, view_of(plan, runs, failed)), failed


def run_side_by_side(plan: Plan, runs: Sequence[Member], root: Path, failed: dict[str, str]) -> None:
    """All runs, and then what is evaluated besides, `plan.parallel` at a time.

    Args:
        plan: The comparison's, which lies in `root` too.
        runs: Its members.
        root: Its folder.
        failed: Why, by a run's name; added to.
    """
    members_ = [Task(member.name, {"member": i}, member) for i, member in enumerate(runs)]
    clock = Eta(len(runs), plan.parallel)

    def done(task: Task, answer: dict[str, Any], seconds: float) -> None:
        if "stopped" in answer:
            raise Stopped(answer["stopped"])
        if "failed" in answer:
            failed[task.name] = answer["failed"]
        if task.member is not None:
            clock.done += 1
            if answer.get("worked"):
                clock.add(seconds)
        left = f" ({clock.text()})" if clock.done < clock.total else ""
        print(f"    {task.name}: {outcome(answer, seconds)}{left}", flush=True)

    with Workers(root, shares_of(plan.parallel)) as workers:
        workers.work_off(members_, done)
        extra = extra_evaluations(plan, runs, ServerCache(root))  # for their names: the workers have the servers
        workers.work_off([Task(name, {"extra": i}) for i, (name, _) in enumerate(extra)], done)


def check_before(plan: Plan, runs: Sequence[Member]) -> None:
    """What can be known before anything is computed. Raises UserError naming the run or target."""
    refuse_shared(plan.parallel, runs)
    shares_of(plan.parallel)
    for member in runs:
        check_one_round(member.config)
    for name, also in plan.also.items():
        base_of(also, name, runs)
    for target in plan.targets:
        config = target_config(plan, target, runs[0].config.model.path, plan.seeds[0])
        Judge(config).check(load_run_splits(config).tests)
        if target not in tests_of(config):
            raise UserError(f"targets.{target}: data.name={config.data.name} has no test questions of it")
    asked: set[str] = set()
    for member in {(m.source, m.label): m for m in runs}.values():
        try:
            check_names(member.config)
            key = tests_key(member.config)
            if key not in asked:  # reading a data set takes seconds
                Judge(member.config).check(load_run_splits(member.config).tests)
                if not any(tests_of(member.config).values()) and not plan.targets:
                    raise UserError(
                        "there are no test questions with answers, so there is nothing to compare: name a labelled "
                        "data set in targets, or in eval.targets"
                    )
            asked.add(key)
        except UserError as error:
            raise type(error)(f"{member.name}: {error}") from error


def guarded(name: str, failed: dict[str, str], servers: ServerCache, work: Callable[[], Any]) -> Any:
    """Do one piece of work; a failure is noted, and the others go on, with new servers.

    Args:
        name: Of the run.
        failed: Why, by a run's name; added to.
        servers: Kept for the next run, unless this one failed.
        work: What is done.
    """
    try:
        return work()
    except UserError as error:
        if isinstance(error, Stopped):
            raise
        failed[name] = str(error)
        print(f"      FAILED: {error}", flush=True)
        servers.close()
        return None


class Eta:
    """How many runs are done, and what is left at this start's own pace."""

    def __init__(self, total: int, at_once: int = 1) -> None:
        self.total, self.done, self.at_once = total, 0, at_once
        self.seconds: list[float] = []

    def add(self, seconds: float) -> None:
        self.seconds.append(seconds)

    def text(self) -> str:
        text = f"run {self.done + 1} of {self.total}"
        if not self.seconds:
            return text
        mean = sum(self.seconds) / len(self.seconds)
        return f"{text} ({duration(mean)} a run, about {duration(mean * (self.total - self.done) / self.at_once)} left)"


def run_member(member: Member, runs: Sequence[Member], servers: ServerCache) -> bool:
    """Bring one run up to date.

    Args:
        member: The run.
        runs: All of the comparison, whose finished stages it may take over.
        servers: Kept from run to run.

    Returns:
        False if it was finished before.
    """
    others = [RunFolder(m.config.run_dir) for m in runs if m.config.run_dir != member.config.run_dir]
    with CachedServerSession(member.config, servers) as session:
        stages = stages_of(member.config)
        if finished(session, stages):
            print("      finished before", flush=True)
            return False
        reused = reuse_stages(
            session.run,
            others,
            [(s.name, STAGES.reads(s, member.config)) for s in stages if s.name in SHARED],
            lambda name: STAGES.fingerprint(session, STAGES[name]),
        )
        if reused:
            print(f"      shared with another run: {', '.join(reused)}", flush=True)
        runner.bring_up(STAGES, session, stages, None)
    return True


def finished(session: Session, stages: Sequence[Stage]) -> bool:
    """All stages are sealed and made from what is asked for now. Files are not hashed: `nopsd run` does that."""
    for stage in stages:
        manifest = session.run.manifest(stage.name)
        if manifest is None or manifest["fingerprint"] != flatten(STAGES.fingerprint(session, stage)):
            return False
    return True


def closing(tables: Sequence[Table], root: Path, failed: Mapping[str, str]) -> str:
    """The console's last words: Table 3, what failed, and the places."""
    shown = [markdown(table) for table in tables if table.name == "table3"]
    lines = [*shown, *(f"FAILED: {name}: {why}" for name, why in failed.items())]
    places = (("report", root / "compare.html"), ("tables", root / "tables"))
    return "\n".join(["", *lines, *(f"{name:9} {path}" for name, path in places)])
