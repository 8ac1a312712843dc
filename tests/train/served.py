"""What the workers that train against a real server share: the client, the inputs, a sync that lies, the ranks.

A worker is started by `deepspeed` as WORKER.py MODEL_DIR OUT_DIR ACTION [ACTION ...], with NOPSD_SERVER_URL and
NOPSD_SERVER_KEY set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nopsd.config import Config, DistConfig
from nopsd.engine.distributed import Ranks, init_distributed, shutdown_distributed
from nopsd.errors import UserError
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.weight_sync import WeightSync
from nopsd.train.metrics_log import MetricsLog
from nopsd.train.run import Algorithm, TrainingInputs
from nopsd.train.trainer import run_training

DIST = DistConfig(ranks=2, timeout_s=180)


def client_of(ranks: Ranks) -> Any:
    """The server's client on rank 0, which alone talks to it."""
    return RolloutClient(os.environ["NOPSD_SERVER_URL"], os.environ["NOPSD_SERVER_KEY"]) if ranks.is_main else None


def train_on(
    config: Config,
    algorithm: Algorithm,
    prompts: Mapping[str, list[int]],
    model: Path,
    folder: Path,
    ranks: Ranks,
    client: Any,
    **more: Any,
) -> None:
    """The whole training of every prompt's question, into `folder`."""
    run_training(
        TrainingInputs(
            config=config,
            algorithm=algorithm,
            selected=list(prompts),
            student_prompts=dict(prompts),
            model_path=model,
            client=client,
            ranks=ranks,
            folder=folder,
            open_log=lambda step: MetricsLog(folder, step),
            **more,
        )
    )


@contextmanager
def lying_sync(said: Path) -> Iterator[None]:
    """The first push is honest, the others only announce new weights; what the training says to it goes to `said`."""
    true_push = WeightSync.push

    def push(self: WeightSync, version: int) -> None:
        if version == 0:
            true_push(self, version)
        elif self._rank == 0:
            self._client.set_policy_version(version)

    WeightSync.push = push  # type: ignore[method-assign]
    try:
        yield
    except UserError as error:  # rank 0 says StaleWeightsError to itself, and its words to the others
        said.write_text(str(error))
    finally:
        WeightSync.push = true_push  # type: ignore[method-assign]


def main(run: Callable[[str, Path, Path, Ranks], None]) -> None:
    """Join the ranks and run every action of the command line."""
    model, out, *actions = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    ranks = init_distributed(DIST)
    for action in actions:
        run(action, Path(model), Path(out), ranks)
    ranks.barrier()
    shutdown_distributed()
