"""worker_train.py's run with train.ahead, on a real server; started by `deepspeed` on 2 ranks.

usage: worker_ahead.py MODEL_DIR OUT_DIR ACTION [ACTION ...]   with NOPSD_SERVER_URL and NOPSD_SERVER_KEY set
    on_policy, ahead   OUT_DIR/ACTION: four steps with importance ratios, without and with train.ahead=1
    lying              OUT_DIR/lying: ahead, by a sync that sends nothing after the first; leaves OUT_DIR/lyingRANK.txt
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import worker_train
from worker_train import prompts

from nopsd.config import Config
from nopsd.engine.distributed import Ranks
from nopsd.train.algorithms.distill import Distillation
from tests.train.served import client_of, lying_sync, main, train_on


def config(action: str) -> Config:
    made = worker_train.config()
    made.train.steps, made.train.max_response, made.train.ahead = 4, 64, int(action != "on_policy")
    made.distill.is_clip = 2.0
    return made


def run(action: str, model: Path, out: Path, ranks: Ranks) -> None:
    students, teachers = prompts(model)
    with lying_sync(out / f"lying{ranks.rank}.txt") if action == "lying" else nullcontext():
        algorithm = Distillation(teacher_prompts=teachers)
        train_on(config(action), algorithm, students, model, out / action, ranks, client_of(ranks))


if __name__ == "__main__":
    main(run)
