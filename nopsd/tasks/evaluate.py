"""Evaluate any checkpoint or hub model on the configured targets.

In: `model.path`, the data's test questions, rollout servers (started here, or running elsewhere). Out, in
RUN/eval/MODEL-HASH: rollouts.parquet, eval_MODEL_DOMAIN.jsonl, metrics.json, and the same as lm-evaluation-harness's
logs under lm_eval/ and, where inspect_ai is installed, as Inspect's under inspect/. A run that was killed goes on where
it was.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nopsd.config import Config, shaping, to_plain
from nopsd.data.answers import leaves_think_open
from nopsd.data.records import Question, questions_hash
from nopsd.data.wording import answer_kind
from nopsd.errors import UserError
from nopsd.evaluation.artefacts import METRICS, read_result, write_results
from nopsd.evaluation.evaluate import group_by_question
from nopsd.evaluation.inspect_logs import can_write, write_inspect_logs
from nopsd.evaluation.lm_eval_answers import rule_gap
from nopsd.evaluation.lm_eval_logs import Evaluated, write_harness_logs
from nopsd.evaluation.results import DomainResult
from nopsd.reporting.table import Cell, Entry, Table, plain
from nopsd.rollout.pool import server_urls
from nopsd.rollout.service import RolloutService
from nopsd.rollout.stage import Lazily, run_rollouts
from nopsd.rollout.types import FILE as ROLLOUTS
from nopsd.rollout.types import Rollout, read_rollouts
from nopsd.rollout.weight_sync import load_folder
from nopsd.run.folder import GENERATION, TOKENIZER, RunFolder
from nopsd.run.lock import run_lock
from nopsd.run.progress import StageProgress
from nopsd.run.session import Session, eval_sampling
from nopsd.stages.data import check_prompts, chosen_tests
from nopsd.stages.evaluate import ANSWERS

INSPECT = "inspect"  # subfolder of Inspect's logs, where inspect_ai is installed
NAME = "model"  # in eval_NAME_DOMAIN.jsonl and metrics.json
VERSION = 1  # the policy version under which servers that run already are given the weights
Tests = Mapping[str, Sequence[Question]]


@dataclass(frozen=True)
class Evaluation:
    """One model's evaluation and its folder."""

    folder: Path
    results: dict[str, DomainResult]


def evaluate(config: Config, redo: str | None = None) -> str:
    """Evaluate `model.path`; returns what to print. `redo`: anything but None deletes what there is. Raises UserError
    where there is nothing to evaluate on."""
    with Session(config) as session:
        session.judge.check(session.splits.tests)
        run, stage = RunFolder(session.run.root / "eval"), folder_name(config.model.path, session.model.hash)
        tests = chosen_tests(config, session.splits)
        if not any(tests.values()):
            raise UserError(f"data.name={config.data.name} has no test questions with answers: nothing to evaluate on")
        external = bool(server_urls(config))

        def client() -> RolloutService:
            served = session.client()
            if external:  # they may hold anything
                load_folder(served, session.model.path, VERSION, weights_hash=session.model.hash)
            return served

        session.run.root.mkdir(parents=True, exist_ok=True)
        with run_lock(session.run.root, ".lock-eval"):
            if redo is not None:
                run.redo(stage)
            done = evaluate_model(session, run, stage, tests, client)
            return as_text(done, session, tests)


def folder_name(path: str, model_hash: str) -> str:
    """A folder's name that people recognise and that no other weights have."""
    last = re.sub(r"[^\w.-]+", "-", "/".join(Path(path).parts[-3:])).strip("-.") or "model"
    return f"{last[-60:].lstrip('-.')}-{model_hash[:8]}"


def evaluate_model(
    session: Session,
    run: RunFolder,
    stage: str,
    tests: Tests,
    client: Callable[[], RolloutService],
    place: tuple[int, int] = (1, 1),
) -> Evaluation:
    """Sample and judge the tests. What is there is read again.

    Args:
        session: Of the model that is evaluated.
        run: The folder that it goes to.
        stage: Name of its subfolder.
        tests: Questions by domain.
        client: Of servers that hold the model's weights; called only to sample.
        place: The number, of how many, that progress shows.
    """
    config = session.config
    made = made_from(session, tests)
    folder = run.stage_dir(stage)
    with StageProgress(f"evaluate: {config.model.path}", *place) as progress:
        session.waits_for = progress.waits_for
        if run.is_current(stage, made, (ANSWERS,)):
            progress.up_to_date()
            return Evaluation(folder, {d: read_result(folder, NAME, d, config.eval) for d in tests})
        run.begin(stage, made, (ANSWERS,))
        started = time.monotonic()
        questions = [q for domain in tests.values() for q in domain]
        check_prompts(config, session.renderer, questions, config.eval.max_new, "eval.max_new")
        prompts = [session.renderer.student(q) for q in questions]
        rollouts = run_rollouts(
            questions,
            prompts,
            Lazily(client),
            eval_sampling(config.eval),
            config.eval.seed,
            folder,
            None,
            progress,
        )
        think_open = leaves_think_open(session.tokenizer.decode(session.renderer.suffix(questions[0])))
        results = session.judge.evaluate(tests, rollouts, think_open)
        write_results(folder, NAME, results)
        evaluated = as_evaluated(session, tests, results, rollouts)
        seconds = time.monotonic() - started
        write_harness_logs(folder / "lm_eval", config.model.path, evaluated, config.eval, seconds)
        if can_write():
            write_inspect_logs(folder / INSPECT, config.model.path, evaluated, config.eval)
        run.commit(stage, made)
    return Evaluation(folder, results)


def made_from(session: Session, tests: Tests) -> dict[str, Any]:
    """All that an evaluation depends on, as plain values."""
    config = session.config
    plain_config = to_plain(config)
    return {
        "model": session.model.hash,
        TOKENIZER: session.model.tokenizer,
        GENERATION: session.model.generation,
        "seed": config.seed,
        "eval": shaping(config, "eval"),
        "prompt": plain_config["prompt"],
        "model.dtype": config.model.dtype,
        "server.dtype": config.server.dtype,
        "tests": questions_hash(q for domain in tests.values() for q in domain),
        ANSWERS: session.judge.answers_hash(q for domain in tests.values() for q in domain),
    }


def as_evaluated(
    session: Session, tests: Tests, results: Mapping[str, DomainResult], rollouts: Sequence[Rollout]
) -> list[Evaluated]:
    """What the harness's logs are made of."""
    by_uid = {uid: sorted(found, key=lambda r: r.sample) for uid, found in group_by_question(rollouts).items()}
    prompts = {uid: session.tokenizer.decode(found[0].prompt_ids) for uid, found in by_uid.items()}
    return [Evaluated(results[d], {q.uid: q for q in tests[d]}, by_uid, prompts) for d in tests]


def as_text(done: Evaluation, session: Session, tests: Tests) -> str:
    """The console's table, the two rules of extraction side by side where letters are asked for, and the places."""
    table = results_table(done.results)
    widths = [max(len(plain(row[i])) for row in [table.header, *table.rows]) for i in range(len(table.header))]
    lines = ["  ".join(plain(c).ljust(w) for c, w in zip(row, widths)).rstrip() for row in [table.header, *table.rows]]
    by_uid = group_by_question(read_rollouts(done.folder / ROLLOUTS))
    for domain, questions in tests.items():
        if answer_kind(questions[0]) == "letter":
            lines.append(f"{domain}: {gap_of(done.results[domain], by_uid)}")
    places = [("rows", done.folder / METRICS), ("lm-eval", done.folder / "lm_eval")]
    if (done.folder / INSPECT).is_dir():
        places.append(("inspect", done.folder / INSPECT))
    return "\n".join(["", *lines, *(f"{name:9} {path}" for name, path in places)])


def gap_of(result: DomainResult, by_uid: Mapping[str, Sequence[Rollout]]) -> str:
    """Our rule of extraction against the harness's on the same samples."""
    texts, ours, gold = [], [], []
    for row in result.rows:
        texts += [r.text for r in sorted(by_uid[row.uid], key=lambda r: r.sample)]
        ours += row.answers
        gold += [row.gold] * len(row.answers)
    return str(rule_gap(texts, ours, gold))


def results_table(results: Mapping[str, DomainResult]) -> Table:
    """A row a domain: per cent but for ECE; 95 % intervals over questions."""
    k = next(iter(results.values())).samples
    header = ("domain", "questions", f"Avg@{k}", "95 %", f"maj@{k}", f"pass@{k}", "ECE", "unparsed", "truncated")
    rows: list[tuple[Cell, ...]] = []
    for domain, result in results.items():
        m, span = result.metrics, result.intervals["avg"]
        ends = "" if span.low is None or span.high is None else f"[{100 * span.low:.1f}, {100 * span.high:.1f}]"
        per_cent = [Entry(100 * m[key], decimals=1) for key in ("avg", "maj", f"pass@{k}")]
        rest = [Entry(m["ece"], decimals=3), *(Entry(100 * m[key], decimals=1) for key in ("unparsed", "truncated"))]
        rows.append((domain, str(len(result.rows)), per_cent[0], ends, *per_cent[1:], *rest))
    return Table("evaluation", "Evaluation", header, tuple(rows))
