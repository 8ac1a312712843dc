"""What `nopsd compare` evaluates besides its runs: targets of other data sets, checkpoints trained elsewhere, and the
diagnostics of the paper's Tables 5 and 6. Each is a sealed folder of its own and is made once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from nopsd.config import METHODS, Config, to_plain
from nopsd.data.records import Question
from nopsd.data.sources.others import load_run_splits
from nopsd.evaluation.artefacts import evaluated_domains
from nopsd.files import file_name, sha256_json
from nopsd.reporting.compare.gathering import SELECTED, TARGETS, base_folder
from nopsd.reporting.compare.plan import Member, Plan, base_of, base_paths, base_seed, domains, target_config
from nopsd.reporting.compare.views import OWN
from nopsd.rollout.service import RolloutService
from nopsd.rollout.weight_sync import load_folder
from nopsd.run import folder as names
from nopsd.run.folder import RunFolder
from nopsd.run.server_cache import CachedServerSession, ServerCache
from nopsd.run.session import Session
from nopsd.stages.data import chosen_tests
from nopsd.tasks import entropy_gap
from nopsd.tasks.evaluate import VERSION, evaluate_model


def extra_evaluations(plan: Plan, runs: Sequence[Member], servers: ServerCache) -> list[tuple[str, Callable[[], None]]]:
    """What is evaluated besides the runs, as (name, work)."""
    todo: list[tuple[str, Callable[[], None]]] = []
    paths = base_paths(runs)
    for seed in dict.fromkeys(base_seed(plan, seed) for seed in plan.seeds):
        for path in paths:
            name = f"base, seed {seed}" if len(paths) == 1 else f"base {path}, seed {seed}"
            todo.append((name, partial(evaluate_base_model, plan, runs, servers, path, seed)))
    for member in runs:
        if METHODS[member.config.method].trainer is not None:
            todo.append((f"{member.name}, other targets", partial(evaluate_on_other_data, plan, member, servers)))
        if plan.diagnostics and member.label == OWN and member.seed == plan.seeds[0]:
            todo.append((f"{member.name}, Table 5", partial(evaluate_selected, member, servers)))
            todo.append((f"{member.name}, Table 6", partial(measure_entropy_gap, member, servers)))
    for name, also in plan.also.items():
        run = RunFolder(Path(plan.folder) / "also" / file_name(name))
        work = partial(on_groups, plan, also.path, base_of(also, name, runs), plan.seeds[0], run, (), servers)
        todo.append((name, work))
    return todo


def evaluate_base_model(plan: Plan, runs: Sequence[Member], servers: ServerCache, path: str, seed: int) -> None:
    """Evaluate a base model on the targets on which no run has.

    Args:
        plan: The comparison's.
        runs: Its members.
        servers: Kept from one evaluation to the next.
        path: The model's.
        seed: Of sampling.
    """
    same = (m for m in runs if m.seed == seed and m.config.model.path == path)
    have = {t for m in same for t in targets_of(m, names.EVALUATE_BASE, "base")}
    on_groups(plan, path, path, seed, base_folder(plan, path), have, servers)


def evaluate_on_other_data(plan: Plan, member: Member, servers: ServerCache) -> None:
    """A trained model on the targets of other data than its own."""
    run = RunFolder(member.config.run_dir)
    if run.manifest(names.EVALUATE) is not None:
        have, base = targets_of(member, names.EVALUATE, "final"), member.config.model.path
        on_groups(plan, str(run.export), base, member.seed, RunFolder(run.root / TARGETS), have, servers)


def targets_of(member: Member, stage: str, name: str) -> list[str]:
    """Targets on which a run has evaluated a model; none where the stage isn't done."""
    run = RunFolder(member.config.run_dir)
    return evaluated_domains(run.stage_dir(stage), name) if run.manifest(stage) else []


def on_groups(
    plan: Plan, model: str, base: str, seed: int, run: RunFolder, have: Collection[str], servers: ServerCache
) -> None:
    """Evaluate a model on every target that is missing, data set by data set.

    Args:
        plan: The comparison's.
        model: Its folder, or a hub id.
        base: What servers start with.
        seed: Of sampling.
        run: The folder that it goes to.
        have: Targets that aren't missing.
        servers: Kept from one evaluation to the next.
    """
    seen = set(have)
    for name in domains(plan):
        config = target_config(plan, name, model, seed)
        tests = {t: q for t, q in tests_of(config).items() if t not in seen}
        seen |= set(tests)
        if tests:
            with CachedServerSession(config, servers) as session:
                client = partial(client_with_weights, servers, target_config(plan, name, base, seed), session)
                evaluate_model(session, run, file_name(f"{name}-{seed}"), tests, client)


def client_with_weights(servers: ServerCache, served: Config, session: Session) -> RolloutService:
    """A client of the kept servers once they hold the session's own model."""
    client = servers.client(served, session.waits_for)
    load_folder(client, session.model.path, VERSION)
    return client


def tests_of(config: Config) -> dict[str, list[Question]]:
    """Test questions by domain; read once for equal settings."""
    key = tests_key(config)
    if key not in _READ:
        _READ[key] = chosen_tests(config, load_run_splits(config))
    return _READ[key]


def tests_key(config: Config) -> str:
    """The same for settings that ask for the same test questions."""
    return sha256_json([to_plain(config.data), config.eval.targets, config.eval.limit])


_READ: dict[str, dict[str, list[Question]]] = {}


def evaluate_selected(member: Member, servers: ServerCache) -> None:
    """Table 5: the base model's eval.n answers to the selected questions, as far as their answers are known."""
    with CachedServerSession(member.config, servers) as session:
        if session.run.manifest(names.SELECT) is None:
            return
        chosen = set(session.run.selection().uids)
        questions = session.judge.known([q for q in session.pool if q.uid in chosen])
        if questions:
            evaluate_model(
                session,
                RunFolder(session.run.root / SELECTED),
                "base",
                {member.config.data.domain: questions},
                lambda: session.client_holding(session.model.path, version=0),
            )


def measure_entropy_gap(member: Member, servers: ServerCache) -> None:
    """Table 6."""
    with CachedServerSession(member.config, servers) as session:
        if session.run.manifest(names.SELECT) is not None:
            entropy_gap.bring_up(session)
