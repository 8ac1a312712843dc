"""Weights & Biases. WANDB_MODE=offline (its own variable) writes RUN/train/wandb alone, for `wandb sync`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nopsd.config import Config
from nopsd.files import sha256_json
from nopsd.train.tracking.base import run_name, settings


class Wandb:
    """A run that goes on under the same id when the training is resumed."""

    def __init__(self, config: Config, folder: Path) -> None:
        import wandb

        self.run: Any = wandb.init(
            project=config.tracking.project,
            name=run_name(config),
            id=sha256_json(str(folder.resolve()))[:16],
            resume="allow",
            dir=str(folder),
            config=settings(config),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One step; those before the last one that is there are left out by wandb itself."""
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        """Uploads what is left, if it is online."""
        self.run.finish()


def open_sink(config: Config, folder: Path, first_step: int) -> Wandb:
    """As `nopsd.train.tracking.base.open_sinks` asks for it."""
    return Wandb(config, folder)
