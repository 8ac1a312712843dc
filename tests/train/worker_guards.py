"""A training that collapses: canned responses loop from step 3 on. Real ZeRO-3 engines, the whole stage but the server.

Run by tests/engine/worker_ranks.py: `main(ranks, job)` with job = {models, out}; rank 0 leaves OUT/found.json, and the
exports lie in OUT/<case>/export.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch._dynamo  # these three are only imported here to be paid once, before the ranks are forked
import torch._inductor.compile_fx  # noqa: F401
import transformers.models.qwen3.modeling_qwen3  # noqa: F401

from nopsd.config import Config, GuardConfig
from nopsd.engine.distributed import Ranks
from nopsd.errors import UserError
from nopsd.train import trainer
from nopsd.train.algorithms.distill import Distillation
from nopsd.train.export import RECORD

sys.path.insert(0, str(Path(__file__).parent))
import worker_engines as engines  # noqa: E402

SOUND_STEPS, PATIENCE, STEPS = 3, 3, 9
LOOP = [7] * 9


class Collapsing(engines.CannedClient):
    """Responses of policy version 3 and later repeat one token; `never`: those of no version."""

    def __init__(self, never: bool = False) -> None:
        self.never = never

    def generate(self, *args: Any, expected_version: int | None = None, **more: Any) -> Any:
        rows = super().generate(*args, expected_version=expected_version, **more)
        for row in rows if (expected_version or 0) >= SOUND_STEPS and not self.never else ():
            row[0].response_ids[:] = LOOP
        return rows


class NoSync(engines.NoSync):
    def close(self) -> None:
        pass


class Killed(Exception):
    pass


def config_of(steps: int = STEPS, best: int = 0, every: int = 1, **guard: Any) -> Config:
    config = engines.config_of(2, steps=steps, ema=True)
    config.train.checkpoint_every, config.train.keep_checkpoints, config.train.keep_best = every, 1, best
    config.train.probe_every = 0
    config.guard = GuardConfig(**{"patience": PATIENCE, "baseline_steps": 2, **guard})
    return config


def run(
    job: dict[str, Any],
    ranks: Ranks,
    name: str,
    config: Config,
    never: bool = False,
    kill_at: int = 0,
    tell: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """The stage; rows of its log, and each rank's error if it ended with one."""
    folder, rows, errors = Path(job["out"]) / name, engines.Rows(), ""

    def progress(done: int, total: int, **info: Any) -> None:
        if tell is not None:
            tell(done, info)
        if done == kill_at:
            raise Killed

    try:
        trainer.run_training(
            trainer.TrainingInputs(
                config=config,
                algorithm=Distillation(teacher_prompts=engines.TEACHER_PROMPTS),
                selected=engines.UIDS,
                student_prompts=engines.STUDENT_PROMPTS,
                model_path=Path(job["models"]) / "tied",
                client=Collapsing(never),
                ranks=ranks,
                folder=folder,
                open_log=lambda step: rows,
                progress=progress,
            )
        )
    except (UserError, Killed) as error:
        errors = f"{type(error).__name__}: {error}"
    record = folder / "export" / RECORD
    left = sorted(p.name for p in (folder / "checkpoints").glob("step_*"))
    return {
        "rows": list(rows),
        "errors": ranks.all_gather_json(errors),
        "left": left,
        "record": json.loads(record.read_text()) if record.is_file() else None,
    }


def main(ranks: Ranks, job: dict[str, Any]) -> None:
    trainer.open_weight_sync = lambda *args: NoSync()  # type: ignore[assignment,return-value]
    shown: list[Any] = []
    found = {
        "stopped": run(job, ranks, "stopped", config_of(), tell=lambda done, info: shown.append([done, info])),
        "short": run(job, ranks, "short", config_of(SOUND_STEPS), never=True),
        "killed": run(job, ranks, "killed", config_of(), kill_at=SOUND_STEPS + 2),
    }
    found["resumed"] = run(job, ranks, "killed", config_of())
    found["again"] = run(job, ranks, "stopped", config_of())  # already exported
    found["best"] = run(job, ranks, "best", config_of(best=1))
    found["none"] = run(job, ranks, "none", config_of(every=STEPS))
    found["progress"] = shown  # type: ignore[assignment]
    if ranks.is_main:
        (Path(job["out"]) / "found.json").write_text(json.dumps(found))
    ranks.barrier()
