"""What can befall a checkpoint, on real ZeRO-3 engines with canned responses; run by tests/engine/worker_ranks.py.

job: {models, out}. Rank 0 of each size leaves OUT/<size>.pt.
    2 ranks: four steps with checkpoints at 2 and 4 (`two/`), the best of three checkpoints exported, a full disk
    1 and 4 ranks: go on from the 2 ranks' checkpoint of step 2
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # these three are only imported here to be paid once, before the ranks are forked
import torch._inductor.compile_fx
import transformers.models.qwen3.modeling_qwen3  # noqa: F401

sys.path.insert(0, str(Path(__file__).parent))
from worker_engines import STUDENT_PROMPTS, Rows, build, config_of, whole

from nopsd.engine.distributed import Ranks
from nopsd.engine.ds_config import FOLDERS
from nopsd.errors import UserError
from nopsd.train import checkpoint, loop, resuming
from nopsd.train.checkpoint import keep_of
from nopsd.train.export import export_model
from nopsd.train.loop import train
from nopsd.train.trainer import load_best

SUB_GROUP = 20_000  # elements: several sub-groups, as a large model has
SCORES = [3.0, 1.0, 2.0]


def config(out: Path, steps: int = 4) -> Any:
    made = config_of(2, steps=steps, ema=True)
    made.dist.student_config = str(out / "student.json")
    return made


def write_ds_config(out: Path) -> None:
    settings = json.loads((FOLDERS[0] / "student_cpu.json").read_text())
    settings["zero_optimization"]["sub_group_size"] = SUB_GROUP
    (out / "student.json").write_text(json.dumps(settings))


def everything(d: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Float32 weights, both moments and the average of the weights, whole."""
    average = {}
    for name, shard in d.ema.master.items():
        flat = torch.cat(d.ranks.gather(shard))
        average[name] = flat[: d.ema.student[name].ds_numel].clone()
    return {"fp32": whole(d), "exp_avg": whole(d, "exp_avg"), "exp_avg_sq": whole(d, "exp_avg_sq"), "ema": average}


def random_states(ranks: Ranks) -> list[list[int]]:
    return [state.tolist() for state in ranks.gather(torch.get_rng_state())]


def unbroken(model: Path, out: Path, ranks: Ranks) -> dict[str, Any]:
    d = build(config(out), model, out / "two", ranks)
    at: dict[int, Any] = {}
    d.progress = lambda done, total, **info: at.update({done: everything(d)}) if done == 2 else None
    train(d)
    return {"rows": list(d.log), "state": at[2], "groups": len(d.student.optimizer.fp16_groups)}


def resumed(model: Path, out: Path, ranks: Ranks) -> dict[str, Any]:
    folder = out / f"from{ranks.world}" / "checkpoints"
    if ranks.is_main:
        shutil.copytree(out / "two" / "checkpoints" / checkpoint.tag_of(2), folder / checkpoint.tag_of(2))
        (folder / ".universal").mkdir()  # as a killed start leaves it
    ranks.barrier()
    d = build(config(out), model, folder.parent, ranks)
    found = resuming.latest_valid(folder, {"test": 1}, ranks)
    assert found is not None
    resuming.load(d.student, d.ema, found, ranks)
    left = sorted(p.name for p in folder.iterdir())
    state, streams = everything(d), random_states(ranks)
    train(d, found.step, found.skipped)
    mark = json.loads((folder / checkpoint.tag_of(4) / checkpoint.COMMITTED).read_text())
    return {
        "rows": list(d.log),
        "state": state,
        "left": left,
        "ranks": mark["ranks"],
        "streams": streams,
        "sharded": all(t.ds_tensor.numel() * ranks.world >= t.ds_numel for t in d.student.module.parameters()),
    }


def best(model: Path, out: Path, ranks: Ranks) -> dict[str, Any]:
    """Three checkpoints with given scores, of which the newest and the best stay; the best is exported."""
    settings = config(out, steps=3)
    settings.train.checkpoint_every = settings.train.keep_checkpoints = settings.train.keep_best = 1
    settings.train.export = "best"
    d = build(settings, model, out / "best", ranks)
    path: list[Any] = []
    d.progress = lambda done, total, **info: path.append(whole(d))
    true_metrics, scores = loop.step_metrics, iter(SCORES)
    loop.step_metrics = lambda *args: {**true_metrics(*args), "loss": next(scores)}  # of each step, so each checkpoint
    train(d)
    loop.step_metrics = true_metrics
    folder = out / "best" / "checkpoints"
    kept = sorted(p.name for p in folder.iterdir())
    step = load_best(d)
    export_model(d.student.module.lm, model, out / "best" / "export", STUDENT_PROMPTS["q0"], ranks)
    newest = resuming.latest_valid(folder, d.identity, ranks)
    return {
        "path": path,
        "kept": kept,
        "step": step,
        "newest": newest.step if newest else None,
        "by": keep_of(settings.train).by,
    }


def disk_full(model: Path, out: Path, ranks: Ranks) -> dict[str, Any]:
    """Rank 1 can't write large files from step 2 on; then it can again, and the run goes on."""
    settings = config(out, steps=2)
    settings.train.checkpoint_every = 1
    d = build(settings, model, out / "full", ranks)
    folder, before = out / "full" / "checkpoints", resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(done: int, total: int, **info: object) -> None:
        if done == 1 and ranks.rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))

    d.progress, error = limit, ""
    try:
        train(d)
    except UserError as raised:
        error = str(raised)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    errors = ranks.all_gather_json(error)
    left = sorted(p.name for p in folder.iterdir())
    found = resuming.latest_valid(folder, d.identity, ranks)
    assert found is not None
    d = build(settings, model, out / "full", ranks)
    resuming.load(d.student, d.ema, found, ranks)
    d.log = Rows()
    train(d, found.step, found.skipped)
    return {
        "errors": errors,
        "left": left,
        "found": found.step,
        "rows": list(d.log),
        "after": sorted(p.name for p in folder.iterdir()),
    }


def main(ranks: Ranks, job: dict[str, Any]) -> None:
    out, model = Path(job["out"]), Path(job["models"]) / "tied"
    if ranks.world == 2:
        if ranks.is_main:
            write_ds_config(out)
        ranks.barrier()
        found = {case.__name__: case(model, out, ranks) for case in (unbroken, best, disk_full)}
    else:
        found = resumed(model, out, ranks)
    if ranks.is_main:
        torch.save(found, out / f"{ranks.world}.pt")
    ranks.barrier()
