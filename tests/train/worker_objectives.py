"""Three steps of the loop with other objectives than the paper's, on real ZeRO-3 engines; started by `deepspeed`.

usage: worker_objectives.py MODELS_DIR OUT_DIR MICRO CASE [CASE ...]   Rank 0 writes OUT_DIR/CASE.pt for each case.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import deepspeed
import torch
from worker_engines import (
    STUDENT_PROMPTS,
    TEACHER_PROMPTS,
    UIDS,
    CannedClient,
    build,
    config_of,
    ids,
    keep_first_gradient,
    whole,
)

from nopsd.config import Config, DistConfig, DistillConfig
from nopsd.data.prompts import TeacherPrompt
from nopsd.data.records import Option, Question
from nopsd.engine.distributed import Ranks, init_distributed, shutdown_distributed
from nopsd.rollout.types import Rollout
from nopsd.train.algorithms.voted import Ttpo
from nopsd.train.loop import train
from nopsd.train.neuron_mask import hold
from nopsd.train.run import TrainingRun

CASES = {
    "pmi": DistillConfig(
        target="pmi", pmi_beta=2.0, kl_base_coef=0.3, is_clip=1.5, support="topk", topk=20, logit_chunk=5
    ),
    "contrast": DistillConfig(
        divergence="jsd", contrast="random_ctx", token_clip=0.3, mask_high_entropy=5.0, logit_chunk=5
    ),
    "drift": DistillConfig(position_weight="drift", drift_scale=5.0, logit_chunk=5),
    "ttpo": DistillConfig(
        divergence="forward_kl",
        pointwise_clip=0.05,
        aggregation="seq_mean_token_mean",
        max_loss_tokens=9,
        logit_chunk=5,
    ),
    "retain": DistillConfig(logit_chunk=5),
    "learn": DistillConfig(),
    "protect": DistillConfig(),
    "base_alone": DistillConfig(kl_base_coef=1.0),
}
AUX_PROMPTS = {name: {uid: ids(f"{name}{uid}", 4, 20) for uid in UIDS} for name in ("ctx_only", "random_ctx")}


LEARNED = torch.arange(2 * 96) % 3 == 0  # neurons of two layers
ELSEWHERE = {f"retain/e{i}": ids(f"e{i}", 4, 20) for i in range(3)}


class ClientWithLogprobs(CannedClient):
    """Canned log-probs too, far from the model's, so that the importance ratio differs from 1."""

    def generate(self, *args: Any, **more: Any) -> Any:
        rows = super().generate(*args, **more)
        return [[replace(r, logprobs=[-5.0 - (i % 3) for i in r.response_ids]) for r in row] for row in rows]


class Answering(ClientWithLogprobs):
    """Four responses a question, each with an answer; none is empty."""

    def generate(self, prompts, uids, sampling, seed, **more: Any) -> Any:
        rows = []
        for prompt, uid in zip(prompts, uids):
            of_sample = [ids(f"{uid}/{seed}/{sample}", 2, 12) for sample in range(sampling.n)]
            texts = [f"<answer>{'AAB?'[(sample + len(uid) + of_sample[0][0]) % 4]}</answer>" for sample in range(4)]
            pairs = enumerate(zip(of_sample, texts))
            rows.append([Rollout(uid, i, prompt, y, text, "stop", 0, seed, [-5.0] * len(y)) for i, (y, text) in pairs])
        return [[replace(r, policy_version=more.get("expected_version") or 0) for r in row] for row in rows]


class Shown:
    """A teacher's prompt of the answer's letter."""

    def teacher(self, question: Question, shown: Any, max_tokens: int) -> TeacherPrompt:
        return TeacherPrompt([ord(shown[0].solution[8]), *STUDENT_PROMPTS[question.uid]], 1, 1)


def voted(config: Config, d: TrainingRun) -> TrainingRun:
    """The same engines under TTPO."""
    config.train.n, config.ttpo.train_n = 4, 3
    questions = {uid: Question(uid, "d", "s", "Which?", (Option("A", "one"), Option("B", "two"))) for uid in UIDS}
    algorithm = Ttpo(questions=questions, renderer=Shown(), teacher_engine=d.algorithm.teacher_engine)
    return replace(d, algorithm=algorithm, client=Answering())


def run(case: str, model: Path, out: Path, ranks: Ranks, micro: int) -> dict[str, Any]:
    """Rows of the log, and the gradient of the first step."""
    config = config_of(micro, dtype="bfloat16" if case == "protect" else "float32")
    config.distill = CASES[case]
    # without demonstrations the teacher is the base: at the first step nothing but rounding may be left to learn
    teacher = TEACHER_PROMPTS
    if case == "base_alone":
        teacher = {uid: replace(p, ids=STUDENT_PROMPTS[uid]) for uid, p in TEACHER_PROMPTS.items()}
    d = build(config, model, out / f"work_{case}", ranks, teacher, aux_prompts=AUX_PROMPTS)
    d.client = ClientWithLogprobs()
    if case == "ttpo":
        d = voted(config, d)
    if case == "retain":
        config.train.retain.share = 0.5
        algorithm = replace(d.algorithm, retained=ELSEWHERE, aux_prompts={})
        prompts = {**STUDENT_PROMPTS, **ELSEWHERE}
        d = replace(d, algorithm=algorithm, retained=list(ELSEWHERE), student_prompts=prompts)
    found, before = keep_first_gradient(d), {}
    if case in ("learn", "protect"):
        hold(d.student.module.lm, LEARNED.numpy(), others=case == "protect")
        before = {"before": whole(d)}
    train(d)
    after = {"after": whole(d), "seen": seen(d)} if before else {}
    return {"rows": list(d.log or ()), **found, **before, **after}


def seen(d: TrainingRun) -> dict[str, torch.Tensor]:
    """The weights that are computed with, whole."""
    found = {}
    for name, parameter in d.student.module.lm.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            found[name] = parameter.detach().clone()
    return found


def main() -> None:
    models, out, micro, *cases = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    ranks = init_distributed(DistConfig(timeout_s=120))
    for case in cases:
        found = run(case, Path(models) / "tied", Path(out), ranks, int(micro))
        if ranks.is_main:
            torch.save(found, Path(out) / f"{case}.pt")
    ranks.barrier()
    shutdown_distributed()


if __name__ == "__main__":
    main()
