"""SFT, GRPO and OPSA loops on real ZeRO-3 engines with canned responses and no server; run by
tests/engine/worker_ranks.py.

job: model (folder), out (folder), cases. Each case leaves OUT/CASE-WORLD.pt, written by rank 0.
The canned client's real twin is in test_tokens_real.py.
"""

from __future__ import annotations

import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nopsd.config import Config, GrpoConfig, GuardConfig, LoraConfig, OpsaConfig, SamplingConfig, TrainConfig
from nopsd.data.records import Option, Question
from nopsd.engine.distributed import Ranks
from nopsd.engine.sequence_parallel import join
from nopsd.engine.stopping import StopRequest
from nopsd.errors import Stopped
from nopsd.rollout.types import Rollout
from nopsd.train.algorithms.grpo import Grpo, load_reference
from nopsd.train.algorithms.opsa import Opsa
from nopsd.train.algorithms.sft import Finetuning
from nopsd.train.algorithms.tokens import load_token_engine
from nopsd.train.loop import train
from nopsd.train.run import TrainingRun
from nopsd.train.trainer import resume

UIDS = [f"q{i}" for i in range(5)]
VOCABULARY, MICRO = 300, {1: 4, 2: 2}
QUESTIONS = {uid: Question(uid, "d", "s", "Which?", (Option("A", "one"), Option("B", "two"))) for uid in UIDS}
IDENTITY = {"test": 1}


def ids(name: str, low: int, high: int) -> list[int]:
    source = random.Random(name)
    return [source.randrange(1, VOCABULARY) for _ in range(source.randint(low, high))]


PROMPTS = {uid: ids(f"s{uid}", 3, 9) for uid in UIDS}
RESPONSES = {uid: [ids(f"r{uid}{k}", 2, 12) for k in range(1 + i % 3)] for i, uid in enumerate(UIDS)}


def canned(uid: str, prompt: list[int], sample: int, seed: int, version: int | None) -> Rollout:
    """Ids, answer and log-probs that depend on uid, sample and seed alone; the first sample of q0 is empty."""
    name = f"{uid}/{sample}/{seed}"
    response = [] if (uid, sample) == ("q0", 0) else ids(name, 2, 12)
    source = random.Random(f"p{name}")
    logprobs = [-5.7 + source.gauss(0, 0.3) for _ in response]
    text = f"<answer>{source.choice('AABE')}</answer>"
    return Rollout(uid, sample, prompt, response, text, "stop", version or 0, seed, logprobs)


class CannedClient:
    def generate(self, prompts, uids, sampling: SamplingConfig, seed, expected_version=None, logprobs=False, **more):
        return [
            [canned(uid, prompt, sample, seed, expected_version) for sample in range(sampling.n)]
            for prompt, uid in zip(prompts, uids)
        ]


class NoSync:
    def __init__(self) -> None:
        self.pushed: list[int] = []

    def push(self, version: int) -> None:
        self.pushed.append(version)


class Rows(list):
    def log(self, step: int, values: dict[str, float]) -> None:
        self.append(dict(values))


def config_of(world: int, steps: int = 2, **grpo: Any) -> Config:
    return Config(
        train=TrainConfig(
            steps=steps,
            batch=3,
            n=3,
            micro=MICRO[world],
            lr=1e-3,
            warmup=0,
            clip=0.0,
            probe_every=2,
            sync_check_every=0,
            checkpoint_every=2,
            keep_checkpoints=9,
        ),
        grpo=GrpoConfig(**grpo),
        guard=GuardConfig(stop=False),
    )


def grpo_run(config: Config, model: Path, folder: Path, ranks: Ranks) -> TrainingRun:
    parallel = join(ranks, config.dist.sequence_parallel)
    student = load_token_engine(config, model, ranks, parallel)
    return TrainingRun(
        config=config,
        algorithm=Grpo(questions=QUESTIONS, reference=load_reference(config, model, student, ranks, parallel)),
        model_path=model,
        selected=UIDS,
        student_prompts=PROMPTS,
        student=student,
        client=CannedClient(),
        sync=NoSync(),
        ranks=ranks,
        folder=folder,
        log=Rows(),
        identity=IDENTITY,
        parallel=parallel,
    )


def sft_run(config: Config, model: Path, folder: Path, ranks: Ranks) -> TrainingRun:
    return TrainingRun(
        config=config,
        algorithm=Finetuning(responses=RESPONSES),
        model_path=model,
        selected=UIDS,
        student_prompts=PROMPTS,
        client=None,
        sync=NoSync(),
        student=load_token_engine(config, model, ranks),
        ranks=ranks,
        folder=folder,
        log=Rows(),
        identity=IDENTITY,
        probe=lambda version: {"probe/unparsed_share": 0.0},
    )


def opsa_run(config: Config, model: Path, folder: Path, ranks: Ranks) -> TrainingRun:
    config.opsa = OpsaConfig(fraction=0.5)
    return replace(grpo_run(config, model, folder, ranks), algorithm=Opsa())


def whole(run: Any, state: str | None = None) -> dict[str, torch.Tensor]:
    """Every trained parameter, or the optimizer's state of that name, gathered."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    get = safe_get_full_fp32_param if state is None else lambda p: safe_get_full_optimizer_state(p, state)
    return {n: get(p).detach().clone() for n, p in run.student.module.lm.named_parameters() if p.requires_grad}


def invariance(run: Any) -> dict[str, Any]:
    """The steps' rows, and the gradient of the first (AdamW's first moment is a tenth of it)."""
    found: dict[str, Any] = {}

    def after(done: int, total: int, **info: object) -> None:
        if done == 1:
            found["gradient"] = {n: 10 * t for n, t in whole(run, "exp_avg").items()}

    run.progress = after
    train(run)
    shards = [p.ds_tensor.numel() < p.ds_numel for p in run.student.module.parameters()]
    return {"rows": list(run.log), "pushed": run.sync.pushed, "sharded": all(shards), **found}


def resumed(make: Any, ranks: Ranks) -> dict[str, Any]:
    """Four unbroken steps; the same ended by SIGTERM during the third, and in fresh engines to the end."""
    run = make("unbroken")
    train(run)
    unbroken, last = list(run.log), whole(run)
    run = make("broken")
    run.stop = StopRequest()

    class StopAtThird(Rows):
        def log(self, step: int, values: dict[str, float]) -> None:
            super().log(step, values)
            if step == 2 and ranks.rank == ranks.world - 1:  # one rank alone is asked to stop
                run.stop.notice.listen()
                signal.raise_signal(signal.SIGTERM)

    run.log, said = StopAtThird(), ""
    try:
        train(run)
    except Stopped as error:
        said = str(error)
    first = list(run.log)
    run = make("broken")
    step, skipped = resume(run)
    train(run, step, skipped)
    equal = all(torch.equal(last[n], t) for n, t in whole(run).items())
    return {"unbroken": unbroken, "resumed": first + list(run.log), "from": step, "said": said, "equal": equal}


def main(ranks: Ranks, job: dict[str, Any]) -> None:
    model, out, world = Path(job["model"]), Path(job["out"]), ranks.world

    def grpo(name: str, steps: int = 2, ahead: int = 0, lora: int = 0, shared: int = 1, **keys: Any) -> TrainingRun:
        config = config_of(world, steps, **keys)
        config.dist.sequence_parallel = shared
        config.train.ahead, config.train.lora = ahead, LoraConfig(r=lora, alpha=2)
        return grpo_run(config, model, out / f"{name}{world}", ranks)

    def sft(name: str, steps: int = 2) -> TrainingRun:
        return sft_run(config_of(world, steps), model, out / f"{name}{world}", ranks)

    certainty: dict[str, Any] = {"reward": "self_certainty", "kl_coef": 0.5, "old_policy": "trained"}
    cases = {
        "sft": lambda: invariance(sft("sft")),
        "majority": lambda: invariance(grpo("majority")),
        "certainty": lambda: invariance(grpo("certainty", **certainty)),
        "ulysses": lambda: invariance(grpo("ulysses", shared=world, **certainty)),
        "opsa": lambda: invariance(opsa_run(config_of(world), model, out / f"opsa{world}", ranks)),
        "lora": lambda: invariance(grpo("lora", lora=2, kl_coef=0.5)),
        "grpo_resume": lambda: resumed(lambda name: grpo(f"r{name}", 4, ahead=1, kl_coef=0.5), ranks),
        "sft_resume": lambda: resumed(lambda name: sft(f"s{name}", 4), ranks),
    }
    for case in job["cases"]:
        if case in ("grpo_resume", "sft_resume", "ulysses") and world == 1:
            continue
        found = cases[case]()
        if ranks.is_main:
            torch.save(found, out / f"{case}-{world}.pt")
        ranks.barrier()
