"""The whole distillation stage on 2 gloo ranks, SIGKILLed again and again and started again, until it is done.

usage: python worker_kills.py JOB.json
job: {models, out, steps, ahead, kills: [{where, nth, victims: [rank, ...], after_s, torn, raises}]}. First OUT/whole,
never killed, then OUT/broken: one start a kill, and a last one. At the `nth` time that a victim gets to `where` (a key
of PLACES) it dies, `after_s` later, or, with `raises`, that call fails; a `torn` file is cut in half first, and with
`all` the other ranks are killed too. Leaves OUT/starts.json: per start its exit codes and what was asked of the server.
Ranks are forked from here, so that imports are paid once.

The server is a file that outlives the ranks: it holds the version and hash of the weights pushed last, and its
responses depend on that hash, so a resumed run that samples before it pushes gets other responses and other losses.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import deepspeed
import torch
import torch._dynamo  # what follows up to `transformers` is only imported before forking
import torch._inductor.compile_fx
import torch.utils.tensorboard
import transformers.models.qwen3.modeling_qwen3  # noqa: F401
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from worker_engines import STUDENT_PROMPTS, TEACHER_PROMPTS, UIDS, config_of, ids

from nopsd.config import DistConfig
from nopsd.engine.distributed import Ranks, init_distributed, shutdown_distributed
from nopsd.errors import ServerError
from nopsd.files import read_json, write_json
from nopsd.network import free_port
from nopsd.rollout.types import Rollout
from nopsd.train import checkpoint, export, loop, resuming, sampling, trainer
from nopsd.train.algorithms import distill
from nopsd.train.metrics_log import MetricsLog
from nopsd.train.run import TrainingInputs

RANKS = 2
LEARNING = threading.Event()
PATIENCE_S = 20.0  # for the other ranks to end by themselves, once one is dead
PLACES: dict[str, tuple[Any, str]] = {
    "engines": (distill, "load_engines"),
    "load": (resuming, "load"),
    "ahead": (sampling, "ask"),
    "rollout": (sampling.Sampler, "sample"),
    "teacher": (loop, "rank_micro_batches"),  # which the teacher reads next
    "step": (loop, "learn"),
    "metrics": (loop, "step_metrics"),
    "shard": (TorchCheckpointEngine, "save"),
    "rank_state": (checkpoint, "save_rank_state"),
    "hashes": (checkpoint, "hashes"),
    "mark": (checkpoint, "commit"),
    "remove": (checkpoint, "remove"),
    "export": (trainer, "export_model"),
    "weights": (export, "save_file"),
    "verify": (export, "verify"),
}


def die(after_s: float = 0.0) -> None:
    if after_s:
        threading.Timer(after_s, die).start()
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def arm(kill: dict[str, Any], rank: int) -> None:
    """Have this process die where `kill` says, if it is a victim."""
    if rank not in kill["victims"]:
        return
    owner, name = PLACES[kill["where"]]
    true_call, count = getattr(owner, name), 0

    def counted(*args: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count == kill["nth"]:
            if kill.get("torn"):
                tear(true_call, args, named)
            if kill.get("raises"):
                raise ServerError(kill["raises"])
            die(kill.get("after_s", 0.0))
        return true_call(*args, **named)

    setattr(owner, name, counted)


def tear(call: Callable[..., Any], args: Any, named: Any) -> None:
    """Make the call and leave half of the largest file that it wrote."""
    call(*args, **named)
    paths = [Path(a) for a in (*args, *named.values()) if isinstance(a, (str, Path))]
    files = [f for p in paths for f in (p.glob("*") if p.is_dir() else [p]) if f.is_file()]
    newest = max(files, key=lambda f: f.stat().st_mtime_ns)
    os.truncate(newest, newest.stat().st_size // 2)


class FileServer:
    """Both the client and the weight sync of a server whose state is a file."""

    def __init__(self, path: Path, model: Any = None, ranks: Ranks | None = None) -> None:
        self.path, self.model, self.ranks, self.asked = path, model, ranks, path.with_suffix(".asked")

    def push(self, version: int) -> None:
        assert self.ranks is not None
        digest = hashlib.sha256()
        for parameter in self.model.parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                digest.update(parameter.detach().numpy().tobytes())
        if self.ranks.is_main:
            write_json(self.path, {"version": version, "digest": digest.hexdigest()})
            self.note(f"push {version}")

    def generate(self, prompts, uids, sampling, seed, expected_version=None, logprobs=False, progress=None):
        held = read_json(self.path)
        if progress is not None:  # sampling ahead: answered only once the step before is being trained
            assert LEARNING.wait(60), "the rollouts were not sampled while the step before was trained"
            LEARNING.clear()
        self.note(f"ask {expected_version} of {held['version']}")
        return [
            [Rollout(uid, 0, prompt, ids(f"{uid}/{seed}/{held['digest']}", 2, 12), "", "stop", held["version"], seed)]
            for prompt, uid in zip(prompts, uids)
        ]

    def note(self, line: str) -> None:
        with open(self.asked, "a") as file:
            file.write(line + "\n")

    def close(self) -> None:
        pass


def run_rank(job: dict[str, Any], folder: Path, kill: dict[str, Any] | None, rank: int, port: int) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # die with the parent: no rank outlives a test
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    if kill is not None:
        arm(kill, rank)
    ranks = init_distributed(DistConfig(timeout_s=90))
    server = folder / "server.json"
    trainer.open_weight_sync = lambda lm, *rest: FileServer(server, lm, ranks)
    config = config_of(2, steps=job["steps"], ema=True)
    config.train.ahead = job.get("ahead", 0)
    true_learn = loop.learn
    loop.learn = lambda *args: LEARNING.set() or true_learn(*args)
    trainer.run_training(
        TrainingInputs(
            config=config,
            algorithm=distill.Distillation(teacher_prompts=TEACHER_PROMPTS),
            selected=UIDS,
            student_prompts=STUDENT_PROMPTS,
            model_path=Path(job["models"]) / "tied",
            client=FileServer(server),
            ranks=ranks,
            folder=folder,
            open_log=lambda step: MetricsLog(folder, step),
        )
    )
    shutdown_distributed()


def start(job: dict[str, Any], folder: Path, kill: dict[str, Any] | None) -> dict[str, Any]:
    """One start of both ranks, to the end of both. Survivors of a kill get a while, as under a launcher."""
    asked = folder / "server.asked"
    asked.parent.mkdir(parents=True, exist_ok=True)
    asked.write_text("")
    context, port = multiprocessing.get_context("fork"), free_port()
    children = [context.Process(target=run_rank, args=(job, folder, kill, r, port)) for r in range(RANKS)]
    for child in children:
        child.start()
    deadline = None
    while any(child.is_alive() for child in children):
        time.sleep(0.02)
        if deadline is None and any(child.exitcode for child in children):
            deadline = time.monotonic() + (0 if kill and kill.get("all") else PATIENCE_S)
        if deadline is not None and time.monotonic() > deadline:
            for child in children:
                child.kill()
    return {"exit": [child.exitcode for child in children], "asked": asked.read_text().splitlines(), "kill": kill}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    out = Path(job["out"])
    starts = [start(job, out / "whole", None)]
    for kill in [*job["kills"], None]:
        starts.append(start(job, out / "broken", kill))
        write_json(out / "starts.json", starts)


if __name__ == "__main__":
    main()
