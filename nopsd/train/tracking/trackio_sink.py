"""Trackio: a local database (TRACKIO_DIR), shown by `trackio show`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nopsd.config import Config
from nopsd.train.tracking.base import run_name, settings


class Trackio:
    """A run of the project."""

    def __init__(self, config: Config) -> None:
        import trackio

        self.run: Any = trackio.init(
            project=config.tracking.project, name=run_name(config), config=settings(config), resume="allow"
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One step."""
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        """All is in the database."""
        self.run.finish()


def open_sink(config: Config, folder: Path, first_step: int) -> Trackio:
    """As `nopsd.train.tracking.base.open_sinks` asks for it."""
    return Trackio(config)
