"""How much of nopsd two distillation steps run: its functions and files, counted by a profiler in the training process.

    python tools/count_functions.py [--teacher ema] [--list]

One rank, a random two-layer model, canned responses, no server. The engines are loaded first and not counted; what is
counted is the loop from its first line to the checkpoint after the second step. Named functions and methods count
once each, however often they run; lambdas and comprehensions don't count.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
from canned_run import canned_run, save_random
from transformers import Qwen3Config

import nopsd
from nopsd.config import Config, DistConfig, TeacherConfig, TrainConfig
from nopsd.engine.distributed import Ranks, init_distributed, shutdown_distributed
from nopsd.train.loop import train
from nopsd.train.run import TrainingRun

PACKAGE = str(Path(nopsd.__file__).parent)
UIDS = ["a", "b", "c", "d"]
PROMPTS = {uid: [5, 6, 7, 8 + i] for i, uid in enumerate(UIDS)}


class Functions:
    """The named functions of nopsd that were called while `counting`, by file."""

    def __init__(self) -> None:
        self.by_file: dict[str, set[str]] = defaultdict(set)

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and not code.co_name.startswith("<"):
            self.by_file[os.path.relpath(code.co_filename, PACKAGE)].add(code.co_qualname)

    def __enter__(self) -> Functions:
        threading.setprofile(self)
        sys.setprofile(self)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def two_steps(folder: Path, teacher: str, ranks: Ranks) -> TrainingRun:
    """The run, its engines loaded."""
    lm = Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        pad_token_id=0,
    )
    train_config = TrainConfig(steps=2, batch=4, micro=2, warmup=0, sync_check_every=0, checkpoint_every=2)
    config = Config(train=train_config, teacher=TeacherConfig(kind=teacher), dist=DistConfig(ranks=1))
    config.model.dtype = "float32"
    contexts = {uid: [12, 13, 14, *ids] for uid, ids in PROMPTS.items()}
    return canned_run(config, save_random(lm, folder / "model"), ranks, PROMPTS, contexts, [9, 10, 11])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="ema", choices=("frozen", "ema", "live", "trust_region"))
    parser.add_argument("--list", action="store_true", help="name the functions of each file")
    args = parser.parse_args()
    torch.manual_seed(0)
    ranks = init_distributed(DistConfig())
    with tempfile.TemporaryDirectory() as folder:
        run = two_steps(Path(folder), args.teacher, ranks)
        with Functions() as found:
            train(run)
    shutdown_distributed()
    print(f"{sum(map(len, found.by_file.values()))} functions in {len(found.by_file)} files")
    if args.list:
        for file, names in sorted(found.by_file.items()):
            print(f"{len(names):4} {file}: {', '.join(sorted(names))}")


if __name__ == "__main__":
    main()
