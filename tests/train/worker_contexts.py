"""The teacher's contexts on real ZeRO-3 engines: kinds with and without them; a resume; ranks that disagree.

Run by tests/engine/worker_ranks.py: `main(ranks, job)` with job = {models, out, kinds, kinds_alone}; rank 0 leaves
OUT/found.pt.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from nopsd.config import Config, LoraConfig, SamplingConfig, TeacherConfig
from nopsd.engine.distributed import Ranks
from nopsd.rollout.types import Rollout
from nopsd.train import checkpoint, context_states, resuming
from nopsd.train.batches import Batching, Example, rank_micro_batches
from nopsd.train.context_states import PrefixCache
from nopsd.train.loop import train
from nopsd.train.losses.head import response_hidden
from nopsd.train.losses.tile import CTX_ONLY, RANDOM_CTX
from nopsd.train.metrics import Clock
from nopsd.train.planning import Limits
from nopsd.train.run import Step, TrainingRun
from nopsd.train.teachers import Reader, context_metrics

sys.path.insert(0, str(Path(__file__).parent))
import worker_engines as engines  # noqa: E402

NEVER = 10**9  # no prefix is so long: whole sequences
AUX = {
    name: {uid: engines.ids(f"{name}{uid}", 5, 12) + engines.STUDENT_PROMPTS[uid] for uid in engines.UIDS}
    for name in (CTX_ONLY, RANDOM_CTX)
}
KINDS: dict[str, dict[str, Any]] = {
    "frozen": {"kind": "frozen"},
    "ema": {"kind": "ema"},
    "live": {"kind": "live"},
    "mixed": {"kind": "trust_region"},
    "lora": {"kind": "frozen", "r": 4},
    "lora_ema": {"kind": "ema", "r": 4},
    "pmi": {"kind": "frozen", "target": "pmi"},
    "contrast": {"kind": "ema", "contrast": "random_ctx"},
}


class Client:
    """`n` responses a question, which depend on uid, seed and number alone."""

    def generate(self, prompts, uids, sampling, seed, expected_version=None, logprobs=False, progress=None):
        return [
            [
                Rollout(u, k, p, engines.ids(f"{u}/{seed}/{k}", 2, 12), "", "stop", expected_version, seed)
                for k in range(sampling.n)
            ]
            for p, u in zip(prompts, uids)
        ]


def config_of(kind: str, r: int = 0, target: str = "teacher", contrast: str | None = None, steps: int = 2) -> Config:
    config = engines.config_of(2, steps=steps)
    config.train.n, config.train.batch = 2, 3
    config.teacher = TeacherConfig(kind=kind, rate=0.1)
    config.train.lora = LoraConfig(r=r, alpha=8, dropout=0.0)
    config.distill.target, config.distill.contrast = target, contrast
    return config


def build(config: Config, job: dict[str, Any], ranks: Ranks, name: str) -> TrainingRun:
    d = engines.build(config, Path(job["models"]) / "tied", Path(job["out"]) / name, ranks)
    d.client, d.algorithm.aux_prompts = Client(), AUX
    d.algorithm.bind(d)
    return d


def case_kinds(job: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Two steps with contexts, then a third one's states with them and whole, by the weights that have moved."""
    found: dict[str, Any] = {}
    for name in job["kinds"]:
        context_states.SHORTEST = 2
        d = build(config_of(**KINDS[name]), job, ranks, name)
        with patch.object(checkpoint, "save"):
            train(d)
        uids = engines.UIDS[:3]
        prompts = [engines.STUDENT_PROMPTS[uid] for uid in uids]
        rollouts = [r for rs in Client().generate(prompts, uids, SamplingConfig(n=2), 9) for r in rs]
        step = Step(3, uids, rollouts, Clock())
        step.examples = d.algorithm.examples(d, step)
        step.batches = rank_micro_batches(step.examples, ranks.rank, ranks.world, d.algorithm.batching(d))
        behind = everything(d, step)
        counts = context_metrics(d.algorithm.teacher.readers, ranks)
        context_states.SHORTEST = NEVER
        whole = everything(d, step)
        worst = max(float((a - b).abs().max()) for a, b in zip(behind, whole, strict=True))
        size = min(float(b.abs().max()) for b in whole)
        found[name] = {"rows": list(d.log), "counts": counts, "worst": worst / size}
    return found


def everything(d: TrainingRun, step: Step) -> list[torch.Tensor]:
    """All hidden states that the step takes from the teacher."""
    targets = d.algorithm.targets(d, step).of_batches
    states = [target.teacher for target in targets]
    others = [t for target in targets for t in target.aux_hidden.values()]
    return [s.hidden_NH for s in states] + [s.mix[0] for s in states if s.mix] + others


def case_resume(job: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Six unbroken steps, so two epochs, at one rollout a question; from the checkpoint of the fourth on again, with
    prompts read early (`teacher.early`)."""
    context_states.SHORTEST = 2
    config = config_of("frozen", steps=6)
    config.train.n, config.train.keep_checkpoints = 1, 3
    d = build(config, job, ranks, "resume")
    (kept,) = [reader.cache for reader in d.algorithm.teacher.readers]
    token = 2 * 2 * 2 * 16 * 4  # two layers' keys and values of two heads of width 16, in float32
    kept.budget = 40 * token  # for about half of what the ranks are asked
    train(d)
    rows, last = list(d.log), engines.whole(d)
    held = kept.nbytes
    folder = Path(job["out"]) / "resume" / "checkpoints"
    if ranks.is_main:
        (folder / checkpoint.tag_of(6) / checkpoint.COMMITTED).unlink()
    ranks.barrier()
    start = resuming.latest_valid(folder, {"test": 1}, ranks)
    assert start is not None
    config.teacher.early = True  # the resumed run's teacher reads while responses are sampled
    again = build(config, job, ranks, "resume")
    again.algorithm.teacher.readers[0].cache.budget = 40 * token
    resuming.load(again.student, again.ema, start, ranks)
    train(again, start.step, start.skipped)
    return {
        "rows": rows,
        "again": list(again.log),
        "from": start.step,
        "held": held,
        "budget": 40 * token,
        "equal": all(torch.equal(last[n], t) for n, t in engines.whole(again).items()),
    }


def case_disagree(job: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Rank 0 has shared prompts, and ones that it holds already; rank 1 none that are worth a context."""
    context_states.SHORTEST = 6
    d = build(config_of("frozen"), job, ranks, "disagree")
    passes = 0

    def forward(*inputs: Any) -> torch.Tensor:
        nonlocal passes
        passes += 1
        return response_hidden(d.algorithm.teacher_engine, *inputs)

    prompts = [engines.TEACHER_PROMPTS[uid].ids for uid in engines.UIDS]
    reader = Reader(forward, ranks, True, PrefixCache(prompts[:2], 2**20))
    counts, worst = [], 0.0
    for uids in (["q0", "q1"], ["q0", "q1", "q2", "q2"], ["q0"]):
        examples = [
            Example(u, [1], engines.TEACHER_PROMPTS[u].ids, [5, 6, 7 + i])
            if ranks.is_main
            else Example(u, [1], [3, 4], [5, 6, 7 + i])
            for i, u in enumerate(uids)
        ]
        sides = [b.teacher for b in rank_micro_batches(examples, 0, 1, Batching(Limits(2)))]
        sides += sides[-1:] * (2 - len(sides))
        before, fills = passes, reader.fills
        states = reader.read(sides)
        counts.append([passes - before, reader.fills - fills])
        for side, hidden_NH in zip(sides, states):
            expected = response_hidden(d.algorithm.teacher_engine, side.ids_BT, side.rows_N, side.segments)
            worst = max(worst, float((hidden_NH - expected).abs().max()))
    return {"counts": ranks.all_gather_json(counts), "worst": ranks.all_gather_json(worst)}


def main(ranks: Ranks, job: dict[str, Any]) -> None:
    found = {"kinds": case_kinds(job, ranks)}
    if not job["kinds_alone"]:
        found |= {"resume": case_resume(job, ranks), "disagree": case_disagree(job, ranks)}
    if ranks.is_main:
        torch.save(found, Path(job["out"]) / "found.pt")
    ranks.barrier()
