"""`nopsd compare`: sources × methods × seeds trained, evaluated and set out in the paper's tables (issue 6).

In: a plan (`nopsd.reporting.compare.plan`), from flags or a YAML file. Out: FOLDER/runs/LABEL-SOURCE-SEED, ordinary
run folders;
FOLDER/compare.md, .html, tables/, figures/. The same command goes on where it was: finished runs are left alone, broken
ones continue, and stages that two runs would make alike are made once. One set of rollout servers serves all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from nopsd.commands.extra_evaluations import further, tests_key, tests_of
from nopsd.config import METHODS, Config
from nopsd.data.sources import load_splits
from nopsd.errors import Stopped, UserError
from nopsd.evaluation.judge import Judge
from nopsd.files import flatten, write_atomic
from nopsd.reporting.compare.gathering import view_of
from nopsd.reporting.compare.plan import Member, Plan, as_tree, members, read_plan, read_plan_file, target_config
from nopsd.reporting.compare.report import write_comparison
from nopsd.reporting.compare.sharing import adopt
from nopsd.reporting.table import Table, markdown
from nopsd.run import folder as names
from nopsd.run import runner
from nopsd.run.folder import RunFolder
from nopsd.run.progress import duration
from nopsd.run.server_cache import Keeper, KeptSession
from nopsd.run.session import Session
from nopsd.run.stage import Stage
from nopsd.selection.names import check_names
from nopsd.stages.registry import STAGES

SHARED = (names.DATA, names.ROLLOUT, names.EVALUATE_BASE, names.NEURONS, names.SIGNALS, names.SELECT)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="nopsd compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="nopsd compare --preset lab --sources biology,chemistry --methods nopsd,ttrl --seeds 0,1,2",
    )
    top.add_argument("overrides", nargs="*", metavar="key=value", help="settings of every run")
    top.add_argument(
        "--plan",
        metavar="FILE",
        help="YAML; flags win over it and pick of its rows (keys: nopsd/reporting/compare/plan.py)",
    )
    top.add_argument("--preset", help="of every run")
    top.add_argument("--folder", help="where everything goes (default runs/compare)")
    top.add_argument("--sources", type=_names, metavar="A,B", help="domains to train on")
    top.add_argument("--targets", type=_names, metavar="A,B", help="further domains to evaluate on")
    top.add_argument("--methods", type=_names, metavar="A,B", help=f"of {', '.join(METHODS)}")
    top.add_argument("--seeds", type=lambda text: [int(part) for part in _names(text)], metavar="0,1")
    top.add_argument("--vary", choices=("seed", "train.seed"), help="what a seed seeds: everything, or training alone")
    top.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="NAME=CHECKPOINT",
        help="evaluate this checkpoint too; METHOD@SOURCE=CHECKPOINT puts it into a row",
    )
    top.add_argument("--entropy", choices=("shannon", "topk20", "nll"), help="estimator of Table 6")
    top.add_argument(
        "--no-diagnostics",
        dest="diagnostics",
        action="store_const",
        const=False,
        help="leave out Tables 5 and 6, which sample more",
    )
    return top


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def compare(argv: Sequence[str]) -> int:
    """The command. 1 if a run failed; the tables are made from the others."""
    arguments = vars(parser().parse_intermixed_args(argv))
    file, also, overrides = (arguments.pop(key) for key in ("plan", "also", "overrides"))
    tree = as_tree(arguments, also, overrides)
    if file is not None:
        tree = merged(read_plan_file(file), tree)
    return run_plan(read_plan(tree, file or "nopsd compare"))


def merged(plan: dict[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags over the file's keys; `set` and `also` are added to; a row that a flag names keeps the file's settings."""
    both = {key: {**(plan.get(key) or {}), **flags[key]} for key in ("set", "also") if key in flags}
    named = {key: _picked(plan.get(key), flags[key]) for key in ("sources", "targets", "methods") if key in flags}
    return {**plan, **flags, **both, **named}


def _picked(there: Any, names: Sequence[str]) -> dict[str, Any]:
    """Names → the file's settings of each; a name that the file lacks is a plain one."""
    settings = there if isinstance(there, Mapping) else {}
    return {name: settings.get(name) for name in names}


def run_plan(plan: Plan) -> int:
    """Everything that is not there yet, then the tables."""
    runs = members(plan)
    check_before(plan, runs)
    root = Path(plan.folder)
    write_atomic(root / "plan.yaml", yaml.safe_dump(OmegaConf.to_container(OmegaConf.structured(plan))))
    failed: dict[str, str] = {}
    clock = Eta(len(runs))
    with Keeper(root) as keeper:
        for member in runs:
            print(f"\n=== {clock.said()}: {member.name}", flush=True)
            began = time.monotonic()
            made = guarded(member.name, failed, keeper, partial(run_member, member, runs, keeper))
            if made is not False:
                clock.add(time.monotonic() - began)
            clock.done += 1
        for name, work in further(plan, runs, keeper):
            guarded(name, failed, keeper, work)
    tables = write_comparison(root, view_of(plan, runs, failed))
    print(closing(tables, root, failed))
    return 1 if failed else 0


def check_before(plan: Plan, runs: Sequence[Member]) -> None:
    """What can be known before anything is computed. Raises UserError naming the run or target."""
    for target in plan.targets:
        config = target_config(plan, target, runs[0].config.model.path, plan.seeds[0])
        Judge(config).check(load_splits(config.data).tests)
        if target not in tests_of(config):
            raise UserError(f"targets.{target}: data.name={config.data.name} has no test questions of it")
    asked: set[str] = set()
    for member in {(m.source, m.label): m for m in runs}.values():
        try:
            check_names(member.config)
            key = tests_key(member.config)
            if key not in asked:  # reading a data set takes seconds
                Judge(member.config).check(load_splits(member.config.data).tests)
                if not any(tests_of(member.config).values()):
                    raise UserError("there are no test questions with answers, so there is nothing to compare")
            asked.add(key)
        except UserError as error:
            raise type(error)(f"{member.name}: {error}") from error


def guarded(name: str, failed: dict[str, str], keeper: Keeper, work: Callable[[], Any]) -> Any:
    """`work()`; a failure is noted, and the others go on, with new servers."""
    try:
        return work()
    except UserError as error:
        if isinstance(error, Stopped):
            raise
        failed[name] = str(error)
        print(f"      FAILED: {error}", flush=True)
        keeper.close()
        return None


class Eta:
    """How many runs are done, and what is left at this start's own pace."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.seconds = total, 0, []  # type: int, int, list[float]

    def add(self, seconds: float) -> None:
        self.seconds.append(seconds)

    def said(self) -> str:
        text = f"run {self.done + 1} of {self.total}"
        if not self.seconds:
            return text
        mean = sum(self.seconds) / len(self.seconds)
        return f"{text} ({duration(mean)} a run, about {duration(mean * (self.total - self.done))} left)"


def stages_of(config: Config) -> Sequence[Stage]:
    """What a run of the comparison consists of; the base is evaluated and no more."""
    untrained = METHODS[config.method].trainer is None
    return STAGES.with_inputs(names.EVALUATE_BASE, config) if untrained else STAGES.planned(config)


def run_member(member: Member, runs: Sequence[Member], keeper: Keeper) -> bool:
    """Bring one run up to date; False if it was finished before."""
    others = [RunFolder(m.config.run_dir) for m in runs if m.config.run_dir != member.config.run_dir]
    with KeptSession(member.config, keeper) as session:
        stages = stages_of(member.config)
        if finished(session, stages):
            print("      finished before", flush=True)
            return False
        taken = adopt(
            session.run,
            others,
            [(s.name, STAGES.reads(s, member.config)) for s in stages if s.name in SHARED],
            lambda name: STAGES.fingerprint(session, STAGES[name]),
        )
        if taken:
            print(f"      shared with another run: {', '.join(taken)}", flush=True)
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
