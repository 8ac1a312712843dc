"""`nopsd compare --dry-run`: every run of a plan checked, and what all of it costs. Nothing is started or written.

In: a plan. Out: a text and an exit code, 1 if something is wrong that no download and no file of the user's puts right.
A stage that several runs would make alike counts once, as `nopsd compare` makes it once. Times are those of
`nopsd plan`: arithmetic with assumed constants.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from nopsd.cluster.doctor import table
from nopsd.cluster.doctor.memory import shape_of
from nopsd.cluster.doctor.scaling import Machine
from nopsd.config import METHODS, Config
from nopsd.data.sources import hub_id
from nopsd.reporting.compare.plan import Member, Plan, domains, members, target_config
from nopsd.reporting.compare.views import OWN
from nopsd.run.stage import Counts
from nopsd.selection.names import check_names
from nopsd.stages.workload import chosen
from nopsd.tasks.compare_parallel import refuse_shared
from nopsd.tasks.compare_stages import made_from, stages_of
from nopsd.tasks.dry_run import Preview, check_own, count_questions, find_model
from nopsd.tasks.plan import Cost, Lengths, assumptions, costs_of, sampled, shape_for_work

OTHERS, DIAGNOSTICS = "other targets", "tables 5 and 6"


@dataclass
class Bill:
    """Costs by stage, of what is made once each."""

    made: dict[str, Cost] = field(default_factory=dict)  # by what it is made from
    unknown: list[str] = field(default_factory=list)  # runs whose number of questions isn't known

    def rows(self, ranks: int) -> Iterator[str]:
        """A line a stage and one for all: how often, tokens, GPU-hours."""
        yield f"{'stage':16} {'made':>5} {'tokens':>11} {'hours':>8} {'GPU-hours':>10}"
        for stage in [*dict.fromkeys(cost.stage for cost in self.made.values()), "all"]:
            costs = [cost for cost in self.made.values() if stage in (cost.stage, "all")]
            tokens, hours = sum(c.tokens for c in costs), sum(c.seconds for c in costs) / 3600
            yield f"{stage:16} {len(costs):>5} {tokens / 1e6:>9.1f} M {hours:>8.2f} {hours * ranks:>10.1f}"


def dry_run(plan: Plan) -> tuple[str, int]:
    """What to print, and the exit code. ConfigError for a plan that can't be meant."""
    runs, found, bill = members(plan), Preview(), Bill()
    refuse_shared(plan.parallel, runs)
    folders = {path: found.noted("model", partial(find_model, c, found)) for path, c in _models(runs).items()}
    counts = {m.name: found.noted("data", partial(counted, m.config, found)) for m in runs}
    tests = {name: found.noted("data", partial(tests_of, plan, name, runs, found)) for name in domains(plan)}
    for member in {(m.label, m.source): m for m in runs}.values():
        found.noted("names", partial(check_code, member.config, found))
    for member in runs:
        folder, known = folders[member.config.model.path], counts[member.name]
        if folder is None or known is None:
            bill.unknown.append(member.name)
            continue
        add(bill, plan, member, folder, known, tests)
    return text(plan, runs, found, bill), table.exit_code(found.findings)


def _models(runs: Sequence[Member]) -> dict[str, Config]:
    return {member.config.model.path: member.config for member in runs}


def check_code(config: Config, found: Preview) -> None:
    """Names of users' own code; a reference that isn't there is the user's to provide."""
    check_own(config)
    reference = config.signal.reference
    if config.select.selector == "nait" and reference and not Path(reference).is_file():
        found.wanted.append(f"signal.reference: {reference}")
    else:
        check_names(config)


def counted(config: Config, found: Preview) -> Counts | None:
    """Questions of a run's data; None where the file is still to be provided."""
    path = config.data.path
    if path and hub_id(config.data) is None and not Path(path).exists():
        found.wanted.append(f"data: {path}")
        return None
    return count_questions(config, found)


def tests_of(plan: Plan, target: str, runs: Sequence[Member], found: Preview) -> int:
    """Test questions of a target."""
    counts = counted(target_config(plan, target, runs[0].config.model.path, plan.seeds[0]), found)
    return counts.tests.get(target, 0) if counts else 0


def add(bill: Bill, plan: Plan, member: Member, folder: Path, counts: Counts, tests: dict[str, Any]) -> None:
    """A run's stages, what its model is evaluated on besides, and the diagnostics of the first run of `nopsd`."""
    config, lengths = member.config, Lengths()
    shape = shape_for_work(folder, shape_of(str(folder), config.model.trust_remote_code))
    machine, ranks = Machine(gpus_per_host=config.dist.ranks), config.dist.ranks
    stages = {stage.name: stage for stage in stages_of(config)}
    for cost in costs_of(config, shape, machine, ranks, counts, lengths):
        if cost.stage in stages:
            bill.made.setdefault(made_from(stages[cost.stage], member), cost)

    def more(stage: str, key: str, questions: int, longest: int, n: int) -> None:
        if questions:
            bill.made.setdefault(key, sampled(stage, shape, machine, ranks, questions * n, longest, lengths))

    base = f"{OTHERS} of {config.model.path}, seed {member.seed}"
    others = {t: tests[t] or 0 for t in domains(plan) if t not in counts.tests}
    for target, questions in others.items():
        more(OTHERS, f"{base}: {target}", questions, config.eval.max_new, config.eval.n)
        if METHODS[config.method].trainer is not None:
            more(OTHERS, f"{OTHERS} of {member.name}: {target}", questions, config.eval.max_new, config.eval.n)
    if plan.diagnostics and member.label == OWN and member.seed == plan.seeds[0]:
        selected = chosen(config, counts.pool)
        more(DIAGNOSTICS, f"table 5 of {member.name}", selected, config.eval.max_new, config.eval.n)
        more(DIAGNOSTICS, f"table 6 of {member.name}", selected, config.zero_shot.max_new, 2)


def text(plan: Plan, runs: Sequence[Member], found: Preview, bill: Bill) -> str:
    """Runs, cost, what is to be fetched and provided, and what is wrong."""
    labels = list(dict.fromkeys(member.label for member in runs))
    config = runs[0].config
    parts = [
        f"dry run of `nopsd compare`: {len(runs)} runs ({len(labels)} methods x {len(plan.sources)} sources x "
        f"{len(plan.seeds)} seeds), evaluated on {len(domains(plan))} targets, into {plan.folder}: nothing is started "
        "or written",
        "\n".join(f"  {label:18} {METHODS[_method(plan, label)].does}{_settings(plan, label)}" for label in labels),
        "\n".join(bill.rows(config.dist.ranks)),
        f"{len(bill.unknown)} of {len(runs)} runs are left out of the cost: their questions or model aren't here"
        if bill.unknown
        else "",
        f"on {config.dist.ranks} GPUs, {assumptions(Machine(), Lengths())}",
        _listed("to be fetched:", found.fetched),
        _listed("to be provided by you:", found.wanted),
        table.as_text(found.findings) if found.findings else "",
        table.summary(found.findings),
    ]
    return "\n\n".join(part for part in parts if part)


def _method(plan: Plan, label: str) -> str:
    return (plan.methods[label].method if label in plan.methods else "") or label


def _settings(plan: Plan, label: str) -> str:
    changed = plan.methods[label].set if label in plan.methods else {}
    return f" ({', '.join(f'{key}={value}' for key, value in changed.items())})" if changed else ""


def _listed(title: str, rows: Sequence[str]) -> str:
    return "\n".join([title, *(f"  {row}" for row in dict.fromkeys(rows))]) if rows else ""
