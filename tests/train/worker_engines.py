"""Runs the distillation loop on real ZeRO-3 engines with canned responses; started by `deepspeed`, no server.

usage: worker_engines.py MODELS_DIR OUT_DIR CASE [CASE ...]   Each case leaves OUT_DIR/CASE.pt, written by rank 0.
MODELS_DIR holds tied/ and untied/; a case whose name ends in _untied takes the latter.
The canned client's real twin is in test_train_real.py.
"""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nopsd.config import Config, DistConfig, SamplingConfig, TeacherConfig, TrainConfig
from nopsd.data.prompts import TeacherPrompt
from nopsd.engine.distributed import Ranks, init_distributed, shutdown_distributed
from nopsd.rollout.types import Rollout
from nopsd.train import checkpoint, loop, resuming
from nopsd.train.algorithms.distill import Distillation, load_engines
from nopsd.train.export import export_model, probe_logits
from nopsd.train.loop import train
from nopsd.train.run import TrainingRun

UIDS = [f"q{i}" for i in range(6)]
VOCABULARY = 300


def ids(name: str, low: int, high: int) -> list[int]:
    source = random.Random(name)
    return [source.randrange(1, VOCABULARY) for _ in range(source.randint(low, high))]


STUDENT_PROMPTS = {uid: ids(f"s{uid}", 3, 9) for uid in UIDS}
TEACHER_PROMPTS = {uid: TeacherPrompt(ids(f"t{uid}", 10, 30) + STUDENT_PROMPTS[uid], 2, 3) for uid in UIDS}
NO_DEMONSTRATIONS = {uid: TeacherPrompt(STUDENT_PROMPTS[uid], 0, 0) for uid in UIDS}


class CannedClient:
    """Responses that depend on uid and seed alone; the first of a step is empty, so that a dummy must run."""

    def generate(self, prompts, uids, sampling: SamplingConfig, seed, expected_version=None, logprobs=False):
        rows = []
        for i, (prompt, uid) in enumerate(zip(prompts, uids)):
            response = ids(f"{uid}/{seed}", 2, 12) if i else []
            rows.append([Rollout(uid, 0, prompt, response, "", "stop", expected_version, seed)])
        return rows


class NoSync:
    def push(self, version: int) -> None:
        pass


class Rows(list):
    def log(self, step: int, values: dict[str, float]) -> None:
        self.append(dict(values))


def config_of(micro: int, steps: int = 3, ema: bool = False, dtype: str = "float32") -> Config:
    config = Config(
        train=TrainConfig(
            steps=steps,
            batch=4,
            micro=micro,
            lr=1e-3,
            warmup=0,
            clip=0.0,
            sync_check_every=0,
            checkpoint_every=2,
            keep_checkpoints=2,
        ),
        teacher=TeacherConfig(kind="ema" if ema else "frozen", rate=0.1),
        dist=DistConfig(ranks=1),
    )
    config.model.dtype = dtype
    return config


def build(
    config: Config, model: Path, folder: Path, ranks: Ranks, teacher_prompts=TEACHER_PROMPTS, **prompts: Any
) -> TrainingRun:
    student, teacher, ema = load_engines(config, model, ranks)
    return TrainingRun(
        config=config,
        algorithm=Distillation(teacher_prompts=teacher_prompts, teacher_engine=teacher, **prompts),
        selected=UIDS,
        student_prompts=STUDENT_PROMPTS,
        model_path=model,
        student=student,
        ema=ema,
        client=CannedClient(),
        sync=NoSync(),
        ranks=ranks,
        folder=folder,
        log=Rows(),
        identity={"test": 1},
    )


def whole(d: TrainingRun, state: str | None = None) -> dict[str, torch.Tensor]:
    """Every parameter of the student, or the optimizer's state of that name, gathered."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    get = safe_get_full_fp32_param if state is None else lambda p: safe_get_full_optimizer_state(p, state)
    return {n: get(p).detach().clone() for n, p in d.student.module.lm.named_parameters()}


def keep_first_gradient(d: TrainingRun) -> dict[str, Any]:
    """Filled by the training: "gradient" is the first step's, of which AdamW's first moment is a tenth."""
    found: dict[str, Any] = {}

    def after(done: int, total: int, **info: object) -> None:
        if done == 1:
            found["gradient"] = {n: 10 * t for n, t in whole(d, "exp_avg").items()}

    d.progress = after
    return found


def case_invariance(model: Path, out: Path, ranks: Ranks, micro: int) -> dict[str, Any]:
    """Three steps' rows, and the gradient of the first."""
    d = build(config_of(micro), model, out / "work", ranks)
    found = keep_first_gradient(d)
    train(d)
    shards = [
        p.ds_tensor.numel() * ranks.world >= p.ds_numel > p.ds_tensor.numel() or ranks.world == 1
        for engine in (d.student, d.algorithm.teacher_engine)
        for p in engine.module.parameters()
    ]
    return {"rows": list(d.log), "sharded": all(shards), **found}


def case_align(model: Path, out: Path, ranks: Ranks) -> dict[str, Any]:
    """No demonstrations and a frozen teacher; then the same with the teacher one token off."""
    d = build(config_of(2, steps=1), model, out / "align", ranks, NO_DEMONSTRATIONS)
    train(d)
    aligned = d.log[0]
    d = build(config_of(2, steps=1), model, out / "shift", ranks, NO_DEMONSTRATIONS)
    true_batches = loop.rank_micro_batches

    def shifted(*args):
        return [replace(b, teacher=replace(b.teacher, rows_N=b.teacher.rows_N - 1)) for b in true_batches(*args)]

    loop.rank_micro_batches = shifted
    train(d)
    loop.rank_micro_batches = true_batches
    return {"aligned": aligned, "shifted": d.log[0]}


def case_ema(model: Path, out: Path, ranks: Ranks, dtype: str = "float32") -> dict[str, Any]:
    """The student after each step, the teacher's weights after the last, and what it computes with them."""
    d = build(config_of(2, ema=True, dtype=dtype), model, out / f"ema_{dtype}", ranks)
    path = [whole(d)]
    d.progress = lambda done, total, **info: path.append(whole(d))
    train(d)
    import deepspeed

    teacher = {}
    for name, parameter in d.algorithm.teacher_engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            teacher[name] = parameter.detach().clone()
    probe = STUDENT_PROMPTS["q0"]
    return {
        "path": path,
        "teacher": teacher,
        "probe": probe,
        "logits": probe_logits(d.algorithm.teacher_engine.module, probe),
        "master": sorted({str(t.dtype) for t in d.ema.master.values()}),
        "rows": list(d.log),
    }


def case_nonfinite(model: Path, out: Path, ranks: Ranks) -> dict[str, Any]:
    """A NaN in one rank's micro-batch at step 1: the step is skipped everywhere, the average too."""
    d = build(config_of(2, ema=True), model, out / "nonfinite", ranks)
    true_batches, calls = loop.rank_micro_batches, []

    def poisoned(*args):
        calls.append(1)
        batches = true_batches(*args)
        if len(calls) == 2 and ranks.rank == 0:
            batches[0] = replace(batches[0], weights_N=batches[0].weights_N * float("nan"))
        return batches

    path: list[Any] = []
    master: list[Any] = []

    def after(*_: object, **__: object) -> None:
        path.append(whole(d))
        master.append({n: t.clone() for n, t in d.ema.master.items()})

    d.progress = after
    loop.rank_micro_batches = poisoned
    train(d)
    loop.rank_micro_batches = true_batches
    return {"rows": list(d.log), "path": path, "master": master}


def case_resume(model: Path, out: Path, ranks: Ranks) -> dict[str, Any]:
    """Five unbroken steps; then from the checkpoint of step 4 damaged, so of step 2, in fresh engines, to the end."""
    config, identity = config_of(2, steps=5, ema=True), {"test": 1}
    config.train.keep_checkpoints = 3
    d = build(config, model, out / "resume", ranks)
    train(d)
    folder = out / "resume" / "checkpoints"
    kept = sorted(p.name for p in folder.glob("step_*"))
    unbroken, last = list(d.log), whole(d)
    if ranks.is_main:
        damage(folder / checkpoint.tag_of(5) / checkpoint.COMMITTED, None)
        victim = next((folder / checkpoint.tag_of(4)).glob("*zero_pp_rank_1_*optim_states.pt"))
        damage(victim, b"torn")
    ranks.barrier()
    found = resuming.latest_valid(folder, identity, ranks)
    assert found is not None
    d = build(config, model, out / "resume", ranks)
    resuming.load(d.student, d.ema, found, ranks)
    train(d, found.step, found.skipped)
    refused = ""
    try:
        resuming.latest_valid(folder, {"test": 2}, ranks)
    except Exception as error:
        refused = str(error)
    return {
        "unbroken": unbroken,
        "resumed": list(d.log),
        "from": found.step,
        "kept": kept,
        "refused": refused,
        "equal": all(torch.equal(last[n], t) for n, t in whole(d).items()),
    }


def damage(file: Path, content: bytes | None) -> None:
    if content is None:
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        data[len(data) // 2 : len(data) // 2 + len(content)] = content
        file.write_bytes(data)


def case_export(model: Path, out: Path, ranks: Ranks) -> dict[str, Any]:
    """Export after a step, whole and cut into several files; then one whose weights are falsified on the way."""
    import nopsd.train.export as export

    d = build(config_of(2, steps=1), model, out / "export_run", ranks)
    train(d)
    lm, probe = d.student.module.lm, STUDENT_PROMPTS["q0"]
    difference = export_model(lm, model, out / "export", probe, ranks)
    export.SHARD_BYTES = 30_000
    in_parts = export_model(lm, model, out / "export_parts", probe, ranks)
    true_gather, refused = export.gather, ""
    export.gather = lambda tensor, ranks: None if (t := true_gather(tensor, ranks)) is None else t * 1.01
    try:
        export_model(lm, model, out / "export_false", probe, ranks)
    except Exception as error:
        refused = str(error)
    export.gather = true_gather
    logits = probe_logits(lm, probe)
    train(replace(d, config=config_of(2, steps=2)), 1)  # training goes on after gathers and an eval forward
    return {
        "difference": difference,
        "in_parts": in_parts,
        "refused": refused,
        "logits": logits,
        "probe": probe,
        "rows": list(d.log),
    }


CASES = {
    "micro4": lambda *a: case_invariance(*a, 4),
    "micro3": lambda *a: case_invariance(*a, 3),
    "micro2": lambda *a: case_invariance(*a, 2),
    "micro1": lambda *a: case_invariance(*a, 1),
    "align": case_align,
    "ema": case_ema,
    "ema_bf16": lambda *a: case_ema(*a, "bfloat16"),
    "nonfinite": case_nonfinite,
    "resume": case_resume,
    "export": case_export,
    "export_untied": case_export,
}


def main() -> None:
    models, out, *cases = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    ranks = init_distributed(DistConfig(timeout_s=120))
    for case in cases:
        model = Path(models) / ("untied" if case.endswith("_untied") else "tied")
        found = CASES[case](model, Path(out), ranks)
        if ranks.is_main:
            torch.save(found, Path(out) / f"{case}.pt")
    ranks.barrier()
    shutdown_distributed()


if __name__ == "__main__":
    main()
