"""worker_train.py's run with train.ahead, on a real server; started by `deepspeed` on 2 ranks.

usage: worker_ahead.py MODEL_DIR OUT_DIR ACTION [ACTION ...]   with NOPSD_SERVER_URL and NOPSD_SERVER_KEY set
    on_policy, ahead   OUT_DIR/ACTION: four steps with importance ratios, without and with train.ahead=1
    lying              OUT_DIR/lying: ahead, by a sync that sends nothing after the first; leaves OUT_DIR/lyingRANK.txt
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import worker_train
from worker_train import prompts

from nopsd.config import Config
from nopsd.engine.distributed import Ranks, init_distributed, shutdown_distributed
from nopsd.errors import UserError
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.weight_sync import WeightSync
from nopsd.train.algorithms.distill import Distillation
from nopsd.train.metrics_log import MetricsLog
from nopsd.train.run import TrainingInputs
from nopsd.train.trainer import run_training


def config(action: str) -> Config:
    made = worker_train.config()
    made.train.steps, made.train.max_response, made.train.ahead = 4, 64, int(action != "on_policy")
    made.distill.is_clip = 2.0
    return made


def run(action: str, model: Path, out: Path, ranks: Ranks) -> None:
    students, teachers = prompts(model)
    client: Any = None  # rank 0 alone talks to the server
    if ranks.is_main:
        client = RolloutClient(os.environ["NOPSD_SERVER_URL"], os.environ["NOPSD_SERVER_KEY"])
    true_push = WeightSync.push
    if action == "lying":
        WeightSync.push = worker_train.push_nothing  # type: ignore[method-assign]
    try:
        run_training(
            TrainingInputs(
                config=config(action),
                algorithm=Distillation(teacher_prompts=teachers),
                selected=list(students),
                student_prompts=students,
                model_path=model,
                client=client,
                ranks=ranks,
                folder=out / action,
                open_log=lambda step: MetricsLog(out / action, step),
            )
        )
    except UserError as error:  # rank 0 says StaleWeightsError to itself, and its words to the others
        if action != "lying":
            raise
        (out / f"lying{ranks.rank}.txt").write_text(str(error))
    finally:
        WeightSync.push = true_push  # type: ignore[method-assign]


def main() -> None:
    model, out, *actions = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    ranks = init_distributed(worker_train.config().dist)
    for action in actions:
        run(action, Path(model), Path(out), ranks)
    ranks.barrier()
    shutdown_distributed()


if __name__ == "__main__":
    main()
