"""Selectors and retrievers compared on the lab in one process: for exploring, a few CPU minutes a training.

    python tools/lab_study.py --domains biology chemistry --seeds 0 1 \
        --rows random=select.selector=random dense=select.selector=neuron_density --out /tmp/study
    python tools/lab_study.py --steps 2 --pool 40 --tests 8 --domains biology    # a quick look
    python tools/lab_study.py --design --commit --out runs/beyond    # the study of docs/preregistration.md

The product's own prompts, scoring, selection, loop and evaluation, but plain PyTorch on one core in place of ZeRO-3 and
a sampler of a few lines in place of vLLM, so its numbers are near `nopsd run`'s and not equal to them. For each domain
and seed the pool is answered and scored once. A row is NAME=key=value[,key=value]; the first one is what the others are
compared with. OUT/results.jsonl grows by one line a training; what is there is not done again. Printed: Avg@k on the
domain's test questions, each row's difference from the first with a paired 95 % interval over questions, and the share
of right answers among the selected questions and among their demonstrations (read after training, for the table).

With `--design` rows, domains and seeds are those of `lab_design`; what explains a row is written with it, `--commit`
commits OUT/results.jsonl after each, no row is begun after `--hours`, and `--part I/N` takes every N-th block. A row a
hypothesis is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

os.environ["DS_ACCELERATOR"] = "cpu"
sys.path.insert(0, str(Path(__file__).parent / "peers"))
sys.path.insert(0, str(Path(__file__).parent))

import lab_design
from lab_measures import FirstStep, commit, explained, wrong_kl
from lab_sampler import LocalSampler, allowed
from nopsd_step import NoSync, PlainEngine, plain_engines
from transformers import AutoModelForCausalLM

from nopsd.config import Config, load_config
from nopsd.data.artefacts import POOL
from nopsd.data.prompts import think_ids
from nopsd.data.sources import load_answer_key
from nopsd.engine.distributed import Ranks
from nopsd.evaluation.artefacts import write_pool_correct
from nopsd.evaluation.bootstrap import paired_differences
from nopsd.evaluation.evaluate import evaluate_domain, group_by_question
from nopsd.evaluation.results import DomainResult, QuestionRow, result_from_rows
from nopsd.files import read_jsonl
from nopsd.neurons.score_pool import ScoredModel, score_pool
from nopsd.rollout.stage import run_rollouts
from nopsd.run.folder import SELECT, TRAIN
from nopsd.run.session import Session, eval_sampling
from nopsd.selection.artefacts import read_contexts, read_selected
from nopsd.signals.store import Signals, write_signals
from nopsd.stages.algorithms import demonstrated
from nopsd.stages.data import prepare_data
from nopsd.stages.registry import STAGES
from nopsd.traces.schema import StepTrace
from nopsd.train.algorithms.distill import Distillation
from nopsd.train.loop import train
from nopsd.train.run import TrainingRun

__all__ = ["LocalSampler", "allowed"]  # for others that sample as this does
ALONE = Ranks(0, 1, torch.device("cpu"))


class Done(Exception):
    """The last step is logged: a study keeps no checkpoint."""


class LastLoss:
    """The log: the losses, and the end after `steps`."""

    def __init__(self, steps: int) -> None:
        self.steps, self.losses, self.first = steps, list[float](), dict[str, float]()

    def log(self, step: int, values: Any) -> None:
        self.losses.append(values["loss"])
        self.first = self.first or dict(values)
        if step + 1 == self.steps:
            raise Done


def made(config: Config) -> Session:
    """A session of one rank whose pool is answered and scored by the base model."""
    session, run = Session(config), Session(config).run
    session.ranks = ALONE
    folders = {name: run.stage_dir(name) for name in ("data", "rollout", "neurons", "signals", "evaluate_base")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    if not (folders["data"] / POOL).exists():
        prepare_data(config, session.model, session.renderer, session.splits, folders["data"])
    write_signals(folders["signals"], Signals([]))
    lm = AutoModelForCausalLM.from_pretrained(session.model.path).eval()
    client = LocalSampler(lm, session.tokenizer, session.model.path)
    prompts = [session.renderer.student(q) for q in session.pool]
    rollouts = run_rollouts(session.pool, prompts, client, config.zero_shot, config.seed, folders["rollout"], 0, None)
    if not list(folders["neurons"].glob("neurons.rank*.npz")):
        model = ScoredModel(PlainEngine(lm, config.train, 1), session.model.hash, think_ids(session.tokenizer))
        score_pool(model, rollouts, config.neuron, ALONE, folders["neurons"])
    shares = session.judge.pool_correctness(session.pool, rollouts, session.think_open)
    write_pool_correct(folders["evaluate_base"], shares)
    return session


def trained(
    session: Session, watch: Callable[[LocalSampler], Callable[[int], dict[str, float]]] | None = None
) -> tuple[LocalSampler, LastLoss, StepTrace | None]:
    """The student after `train.steps` of Algorithm 1, its losses, and the first step's trace.

    `watch`: makes the probe of what is served.
    """
    config, run = session.config, session.run
    selected = run.selection().uids
    student, teacher = plain_engines(config, session.model.path)
    client, log = LocalSampler(student.module.lm, session.tokenizer, session.model.path), LastLoss(config.train.steps)
    torch.manual_seed(config.seed)
    trace = FirstStep()
    try:
        train(
            TrainingRun(
                config=config,
                algorithm=Distillation(teacher_prompts=demonstrated(session, selected), teacher_engine=teacher),
                model_path=session.model.path,
                selected=selected,
                student=student,
                client=client,
                sync=NoSync(),
                ranks=ALONE,
                folder=run.stage_dir(TRAIN),
                identity={},
                log=log,
                trace=trace,
                trace_every=config.train.steps,
                probe=watch(client) if watch else None,
                student_prompts={uid: session.student_prompts[uid] for uid in selected},
            )
        )
    except Done:
        pass
    return client, log, trace.found


def studied(config: Config, tests: int) -> dict[str, Any]:
    """One row: select, train, evaluate."""
    session = made(config)
    folder = session.run.stage_dir(SELECT)
    folder.mkdir(exist_ok=True)
    STAGES["select"].work(session, folder, None)
    client, log, first = trained(session)
    questions = session.tests[config.data.domain][:tests]
    prompts = [session.renderer.student(q) for q in questions]
    samples = client.generate(prompts, [q.uid for q in questions], eval_sampling(config.eval), config.seed + 1)
    by_uid = group_by_question([r for row in samples for r in row])
    result = evaluate_domain(questions, load_answer_key(config.data), by_uid, config.eval, session.eval_reader)
    right = session.run.pool_correct()
    contexts = read_contexts(folder)
    shown = [right[near.uid] for nears in contexts.values() for near in nears]
    chosen = [right[uid] for uid in read_selected(folder).uids]
    return {
        "first_loss": log.losses[0],
        "last_loss": log.losses[-1],
        "selected_right": mean(chosen),
        "shown_right": mean(shown),
        "gain": result.metrics["avg"] - base_avg(session, questions),
        "wrong_kl": wrong_kl(session, first),
        **explained(session, contexts, right, log.first),
        "rows": [asdict(row) for row in result.rows],
    }


def base_avg(session: Session, questions: Sequence[Any]) -> float:
    """Avg of the base model on the same questions, computed once a run folder and number of questions."""
    config, folder = session.config, session.run.stage_dir("evaluate_base")
    file = folder / f"avg-{len(questions)}-{config.eval.n}.json"
    if not file.exists():
        lm = AutoModelForCausalLM.from_pretrained(session.model.path).eval()
        client = LocalSampler(lm, session.tokenizer, session.model.path)
        prompts = [session.renderer.student(q) for q in questions]
        samples = client.generate(prompts, [q.uid for q in questions], eval_sampling(config.eval), config.seed + 1)
        by_uid = group_by_question([r for row in samples for r in row])
        result = evaluate_domain(questions, load_answer_key(config.data), by_uid, config.eval, session.eval_reader)
        file.write_text(json.dumps(result.metrics["avg"]))
    return float(json.loads(file.read_text()))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def config_of(args: argparse.Namespace, domain: str, seed: int, settings: str) -> Config:
    pool = [] if args.pool is None else [f"data.pool_limit={args.pool}"]
    return load_config(
        "lab",
        [
            f"data.domain={domain}",
            f"seed={seed}",
            f"run_dir={args.out / f'{domain}-{seed}'}",
            "dist.ranks=1",
            f"train.steps={args.steps}",
            "train.probe_every=0",
            "train.sync_check_every=0",
            "train.checkpoint_every=1000000",
            "train.micro=16",
            f"eval.n={args.samples}",
            *pool,
            *filter(None, settings.split(",")),
        ],
    )


def result_of(line: dict[str, Any], config: Config) -> DomainResult:
    return result_from_rows(line["domain"], [QuestionRow(**row) for row in line["rows"]], config.eval)


def table(lines: Sequence[dict[str, Any]], rows: Sequence[str], config: Config) -> str:
    """Markdown, a line a domain, seed and row; the difference is from the first row's on the same questions."""
    text = ["| domain | seed | row | Avg | from the first | selected right | shown right |", "|---" * 7 + "|"]
    found = {(line["domain"], line["seed"], line["row"]): line for line in lines}
    for domain, seed in sorted({(line["domain"], line["seed"]) for line in lines}):
        first = found.get((domain, seed, rows[0]))
        for row in rows:
            line = found.get((domain, seed, row))
            if line is None:
                continue
            result, difference = result_of(line, config), ""
            if first is not None and line is not first:
                before, settings = result_of(first, config).outcomes, config.eval
                pair = paired_differences([before], [result.outcomes], settings.ece_bins, settings.bootstrap, 0)["avg"]
                difference = f"{pair.value * 100:+.1f} [{(pair.low or 0) * 100:+.1f}, {(pair.high or 0) * 100:+.1f}]"
            text.append(
                f"| {domain} | {seed} | {row} | {result.metrics['avg'] * 100:.1f} | {difference} | "
                f"{line['selected_right'] * 100:.0f} % | {line['shown_right'] * 100:.0f} % |"
            )
    return "\n".join(text)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", nargs="+", default=["biology", "chemistry", "materials", "physics"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--rows",
        nargs="+",
        metavar="NAME=KEY=VALUE,...",
        default=[
            "random=select.selector=random",
            "paper=select.selector=neuron_count",
            "dense=select.selector=neuron_density",
        ],
    )
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--samples", type=int, default=4, help="answers to each test question")
    parser.add_argument("--tests", type=int, default=250, help="test questions")
    parser.add_argument("--pool", type=int, help="pool questions; all by default")
    parser.add_argument("--design", action="store_true", help="the study of docs/preregistration.md")
    parser.add_argument("--commit", action="store_true", help="commit the results after each row")
    parser.add_argument("--hours", type=float, default=12.0, help="begin no row after so long")
    parser.add_argument("--part", default="0/1", metavar="I/N", help="every N-th domain and seed, from the I-th on")
    parser.add_argument("--open-seeds", action="store_true", help="run seeds 5 and above, which are opened once")
    parser.add_argument("--out", type=Path, default=Path("runs/lab-study"))
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if args.design:
        args.tests, args.rows = (
            min(args.tests, 125),
            [f"{name}={settings}" for name, settings in lab_design.cells().items()],
        )
    pairs = lab_design.blocks() if args.design else [(d, s) for d in args.domains for s in args.seeds]
    if not args.open_seeds and any(seed not in lab_design.EXPLORED for _, seed in pairs):
        raise SystemExit("seeds 5 and above are unopened (docs/preregistration.md): --open-seeds, once, at the end")
    place, parts = map(int, args.part.split("/"))
    began = time.monotonic()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "results.jsonl"
    lines = read_jsonl(file) if file.exists() else []
    rows = dict(row.partition("=")[::2] for row in args.rows)
    for domain, seed in pairs[place::parts]:
        for name, settings in rows.items():
            if time.monotonic() - began > args.hours * 3600:
                break
            asked = {
                "domain": domain,
                "seed": seed,
                "row": name,
                "settings": settings,
                "steps": args.steps,
                "samples": args.samples,
                "tests": args.tests,
                "pool": args.pool,
            }
            if any(asked.items() <= line.items() for line in lines):
                continue
            line = asked | studied(config_of(args, domain, seed, settings), args.tests)
            lines.append(line)
            with open(file, "a") as out:
                out.write(json.dumps(line) + "\n")
            if args.commit:
                commit(file, f"Lab study: {domain} {seed} {name}")
            print(f"{domain} {seed} {name}: {mean([mean(r['correct']) for r in line['rows']]):.3f}", flush=True)
    if args.design:
        print(lab_design.analysed(read_jsonl(file) if file.exists() else []))
    else:
        print(table(lines, list(rows), config_of(args, args.domains[0], args.seeds[0], "")))


if __name__ == "__main__":
    main()
