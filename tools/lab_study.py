"""Selectors and retrievers compared on the lab in one process: for exploring, a few CPU minutes a training.

    python tools/lab_study.py --domains biology chemistry --seeds 0 1 \
        --rows random=select.selector=random dense=select.selector=neuron_density --out /tmp/study
    python tools/lab_study.py --steps 2 --pool 40 --tests 8 --domains biology    # a quick look

The product's own prompts, scoring, selection, loop and evaluation, but plain PyTorch on one core in place of ZeRO-3 and
a sampler of a few lines in place of vLLM, so its numbers are near `nopsd run`'s and not equal to them. For each domain
and seed the pool is answered and scored once. A row is NAME=key=value[,key=value]; the first one is what the others are
compared with. OUT/results.jsonl grows by one line a training; what is there is not done again. Printed: Avg@k on the
domain's test questions, each row's difference from the first with a paired 95 % interval over questions, and the share
of right answers among the selected questions and among their demonstrations (read after training, for the table).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

os.environ["DS_ACCELERATOR"] = "cpu"
sys.path.insert(0, str(Path(__file__).parent / "peers"))

from nopsd_step import NoSync, PlainEngine, plain_engines
from transformers import AutoModelForCausalLM, GenerationConfig

from nopsd.config import Config, SamplingConfig, load_config
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
from nopsd.rollout.types import Rollout
from nopsd.run.folder import SELECT, TRAIN
from nopsd.run.session import Session, eval_sampling
from nopsd.selection.artefacts import read_contexts, read_selected
from nopsd.signals.store import Signals, write_signals
from nopsd.stages.data import prepare_data
from nopsd.stages.registry import STAGES
from nopsd.stages.train import demonstrated
from nopsd.train.algorithms.distill import Distillation
from nopsd.train.loop import train
from nopsd.train.run import TrainingRun

ALONE = Ranks(0, 1, torch.device("cpu"))
BATCH = 256  # sequences sampled together


class Done(Exception):
    """The last step is logged: a study keeps no checkpoint."""


class LastLoss:
    """The log: the losses, and the end after `steps`."""

    def __init__(self, steps: int) -> None:
        self.steps, self.losses = steps, list[float]()

    def log(self, step: int, values: Any) -> None:
        self.losses.append(values["loss"])
        if step + 1 == self.steps:
            raise Done


class LocalSampler:
    """`generate` as `RolloutClient` has it, from a module in this process, whatever weights it holds."""

    def __init__(self, lm: torch.nn.Module, tokenizer: Any, model_path: Path) -> None:
        ends = GenerationConfig.from_pretrained(model_path).eos_token_id
        self.lm, self.tokenizer, self.ends = lm, tokenizer, torch.tensor([ends] if isinstance(ends, int) else ends)

    def generate(
        self,
        prompts: Sequence[list[int]],
        uids: Sequence[str],
        sampling: SamplingConfig,
        seed: int,
        expected_version: int | None = None,
        logprobs: bool = False,
        progress: Any = None,
        finished: Any = None,
    ) -> list[list[Rollout]]:
        draw = torch.Generator().manual_seed(seed % 2**31)
        asked = [prompt for prompt in prompts for _ in range(sampling.n)]
        order, found = sorted(range(len(asked)), key=lambda i: len(asked[i])), {}
        trains = self.lm.training
        self.lm.eval()
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            found.update(zip(places, self._sample([asked[i] for i in places], sampling, draw)))
        self.lm.train(trains)
        rollouts = [
            self._rollout(uids[i // sampling.n], i % sampling.n, asked[i], found[i], expected_version or 0)
            for i in range(len(asked))
        ]
        return [rollouts[i : i + sampling.n] for i in range(0, len(rollouts), sampling.n)]

    def _rollout(self, uid: str, sample: int, prompt: list[int], ids: list[int], version: int) -> Rollout:
        ended = bool(ids) and ids[-1] in self.ends.tolist()
        text = self.tokenizer.decode(ids[:-1] if ended else ids)
        return Rollout(uid, sample, list(prompt), ids, text, "stop" if ended else "length", version)

    @torch.no_grad()
    def _sample(self, prompts: list[list[int]], sampling: SamplingConfig, draw: torch.Generator) -> list[list[int]]:
        """Responses to prompts padded on the left, with a cache of keys and values."""
        longest = max(map(len, prompts))
        ids_BT = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
        mask_BT = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        place_B1, cache = mask_BT.sum(1, keepdim=True), None
        position_BT = (mask_BT.cumsum(1) - 1).clamp_min(0)
        responses: list[list[int]] = [[] for _ in prompts]
        ended_B = torch.zeros(len(prompts), dtype=torch.bool)
        for _ in range(sampling.max_new):
            out = self.lm(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=position_BT,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = out.past_key_values
            token_B = torch.multinomial(allowed(out.logits[:, -1], sampling), 1, generator=draw)[:, 0]
            for row in (~ended_B).nonzero()[:, 0].tolist():
                responses[row].append(int(token_B[row]))
            ended_B |= torch.isin(token_B, self.ends)
            if ended_B.all():
                break
            ids_BT, position_BT, place_B1 = token_B[:, None], place_B1, place_B1 + 1
            mask_BT = torch.cat([mask_BT, torch.ones_like(ids_BT)], 1)
        return responses


def allowed(logits_BV: torch.Tensor, sampling: SamplingConfig) -> torch.Tensor:
    """Probabilities [B, V] at the temperature, of the top k and of these the top p, as vLLM cuts them."""
    scaled = logits_BV / max(sampling.temperature, 1e-4)
    if sampling.top_k > 0:
        scaled = scaled.masked_fill(scaled < scaled.topk(sampling.top_k, -1).values[:, -1:], -torch.inf)
    sorted_BV, order_BV = scaled.softmax(-1).sort(-1, descending=True)
    sorted_BV[sorted_BV.cumsum(-1) - sorted_BV >= sampling.top_p] = 0
    return torch.zeros_like(sorted_BV).scatter(-1, order_BV, sorted_BV)


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
) -> tuple[LocalSampler, list[float]]:
    """The student after `train.steps` of Algorithm 1, and its losses. `watch`: makes the probe of what is served."""
    config, run = session.config, session.run
    selected = run.selection().uids
    student, teacher = plain_engines(config, session.model.path)
    client, log = LocalSampler(student.module.lm, session.tokenizer, session.model.path), LastLoss(config.train.steps)
    torch.manual_seed(config.seed)
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
                probe=watch(client) if watch else None,
                student_prompts={uid: session.student_prompts[uid] for uid in selected},
            )
        )
    except Done:
        pass
    return client, log.losses


def studied(config: Config, tests: int) -> dict[str, Any]:
    """One row: select, train, evaluate."""
    session = made(config)
    folder = session.run.stage_dir(SELECT)
    folder.mkdir(exist_ok=True)
    STAGES["select"].work(session, folder, None)
    client, losses = trained(session)
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
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "selected_right": mean(chosen),
        "shown_right": mean(shown),
        "rows": [asdict(row) for row in result.rows],
    }


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
    parser.add_argument("--out", type=Path, default=Path("runs/lab-study"))
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "results.jsonl"
    lines = read_jsonl(file) if file.exists() else []
    rows = dict(row.partition("=")[::2] for row in args.rows)
    for domain in args.domains:
        for seed in args.seeds:
            for name, settings in rows.items():
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
                print(f"{domain} {seed} {name}: {mean([mean(r['correct']) for r in line['rows']]):.3f}", flush=True)
    print(table(lines, list(rows), config_of(args, args.domains[0], args.seeds[0], "")))


if __name__ == "__main__":
    main()
