"""A training that is traced, and the same again from its trace without a server, after `measure_gain`.

Run by tests/engine/worker_ranks.py. job: {models, out}. Rank 0 leaves OUT/SIZE.pt: the rows of both runs, and the
tables of the trace.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # these three are only imported here to be paid once, before the ranks are forked
import torch._inductor.compile_fx
import transformers.models.qwen3.modeling_qwen3  # noqa: F401

sys.path.insert(0, str(Path(__file__).parent))
from worker_engines import STUDENT_PROMPTS, TEACHER_PROMPTS, UIDS, build, config_of

from nopsd.engine.distributed import Ranks
from nopsd.files import read_json
from nopsd.rollout.types import Rollout
from nopsd.traces.schema import Prompts
from nopsd.traces.writer import TraceWriter
from nopsd.train.artefacts import GAIN
from nopsd.train.gain import measure_gain
from nopsd.train.loop import train
from nopsd.train.replay import Replay

STEPS = 3


def main(ranks: Ranks, job: dict[str, Any]) -> None:
    out = Path(job["out"]) / str(ranks.world)
    folder = out / "train" / "trace"
    recorded = traced(ranks, job, out, folder)
    again = build(config_of(2, STEPS), Path(job["models"]) / "tied", out / "again", ranks)
    again.client, again.sync, again.replay = None, None, Replay(out, "train")
    stored = [Rollout(uid, 0, STUDENT_PROMPTS[uid], [5 + i, 9, 3, 7], "", "stop", 0) for i, uid in enumerate(UIDS[:3])]
    measure_gain(again, stored, {uid: TEACHER_PROMPTS[uid].ids for uid in UIDS})
    train(again)
    if ranks.is_main:
        tables = {step: again.replay.trace.table(step).to_pydict() for step in again.replay.trace.steps}
        rows = {"recorded": list(recorded.log), "again": list(again.log), "tables": tables, "stored": stored}
        rows["gain"] = read_json(again.folder / GAIN)
        torch.save(rows, Path(job["out"]) / f"{ranks.world}.pt")
    ranks.barrier()


def traced(ranks: Ranks, job: dict[str, Any], out: Path, folder: Path) -> Any:
    """The run whose trace lies in `folder`."""
    run = build(config_of(2, STEPS), Path(job["models"]) / "tied", out / "first", ranks)
    run.trace_every = 1
    if ranks.is_main:
        run.trace = TraceWriter(folder, 1, 1 << 30)
        run.trace.write_prompts({u: Prompts(ids, TEACHER_PROMPTS[u].ids) for u, ids in STUDENT_PROMPTS.items()})
    train(run)
    if run.trace is not None:
        run.trace.close()
    ranks.barrier()
    return run
