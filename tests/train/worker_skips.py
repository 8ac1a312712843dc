"""Losses and gradients that are not finite, on one of two real ZeRO-3 ranks; run by tests/engine/worker_ranks.py.

job: {models, out}. POISON says at which step which rank's first micro-batch goes wrong, and how. For each dtype rank 0
leaves OUT/DTYPE.pt: the state after each step, what ended the run, and how it went on from the checkpoint.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # these three are only imported here to be paid once, before the ranks are forked
import torch._inductor.compile_fx
import transformers.models.qwen3.modeling_qwen3  # noqa: F401

sys.path.insert(0, str(Path(__file__).parent))
from worker_engines import Rows, build, config_of, whole

from nopsd.engine.distributed import Ranks
from nopsd.errors import UserError
from nopsd.train import loop, resuming
from nopsd.train.run import Step

POISON = {1: (1, "loss"), 3: (0, "gradient"), 5: (1, "loss"), 6: (0, "loss")}  # step: rank, what


def poison(d: Any, ranks: Ranks, plan: dict[int, tuple[int, str]]) -> list[list[str]]:
    """Have these steps go wrong. Returns a list that fills with the questions of the micro-batches hit."""
    true_learn, true_forward, hit = loop.learn, d.student.module.forward, []
    now: list[str] = []

    def forward(*args: Any, **named: Any) -> Any:
        result = true_forward(*args, **named)
        if not now:
            return result
        if now.pop() == "gradient":
            result.loss.register_hook(lambda gradient: gradient * math.nan)
            return result
        return result._replace(loss=result.loss + math.inf)  # its gradient is finite

    def learn(d: Any, step: Step, targets: Any) -> Any:
        now.clear()
        rank, what = plan.get(step.number, (-1, ""))
        if rank == ranks.rank:
            now.append(what)
            hit.append(list(step.batches[0].student.names))
        return true_learn(d, step, targets)

    d.student.module.forward = forward
    loop.learn = learn
    return hit


def everything(d: Any) -> dict[str, torch.Tensor]:
    kinds = {
        "weight": whole(d),
        "exp_avg": whole(d, "exp_avg"),
        "exp_avg_sq": whole(d, "exp_avg_sq"),
        "average": {n: t.clone() for n, t in d.ema.master.items()},
    }
    return {f"{kind} {name}": t for kind, tensors in kinds.items() for name, t in tensors.items()}


def run(d: Any, step: int, skipped: int) -> str:
    try:
        loop.train(d, step, skipped)
    except UserError as error:
        return str(error)
    return ""


def case(dtype: str, model: Path, out: Path, ranks: Ranks) -> dict[str, Any]:
    config = config_of(2, steps=8 if dtype == "float32" else 4, ema=True, dtype=dtype)
    config.train.max_skipped, config.train.clip = 2, 1.0
    d = build(config, model, out / dtype, ranks)
    path: list[Any] = []
    d.progress = lambda *_, **__: path.append(everything(d))
    true_learn = loop.learn
    hit = poison(d, ranks, POISON)
    error = run(d, 0, 0)
    loop.learn = true_learn
    hits, errors = ranks.all_gather_json(hit), ranks.all_gather_json(error)
    found = {"rows": list(d.log), "path": path, "hits": hits, "errors": errors}
    if error:
        path.append(everything(d))
        found |= went_on(config, model, out / dtype, ranks)
    return found


def went_on(config: Any, model: Path, folder: Path, ranks: Ranks) -> dict[str, Any]:
    """From the last checkpoint in fresh engines: with steps that are still bad, then with none."""
    found = resuming.latest_valid(folder / "checkpoints", {"test": 1}, ranks)
    assert found is not None
    ends, true_learn = [], loop.learn
    for plan in (POISON, {}):
        d = build(config, model, folder, ranks)
        resuming.load(d.student, d.ema, found, ranks)
        d.extras, d.log = found.extras, Rows()
        poison(d, ranks, plan)
        ends.append({"errors": ranks.all_gather_json(run(d, found.step, found.skipped)), "rows": list(d.log)})
        loop.learn = true_learn
    return {"from": found.step, "skipped": found.skipped, "went_on": ends}


def main(ranks: Ranks, job: dict[str, Any]) -> None:
    for dtype in ("float32", "bfloat16"):
        found = case(dtype, Path(job["models"]) / "tied", Path(job["out"]), ranks)
        if ranks.is_main:
            torch.save(found, Path(job["out"]) / f"{dtype}.pt")
        ranks.barrier()
