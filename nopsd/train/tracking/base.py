"""What a place that shows training numbers offers, and which places there are."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from nopsd.config import Config, to_plain
from nopsd.errors import ConfigError
from nopsd.files import flatten
from nopsd.keys import redacted

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}


class Sink(Protocol):
    """One place. Called by rank 0 alone."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step, by tag."""

    def close(self) -> None:
        """All is written."""


def check_places(config: Config) -> None:
    """ConfigError, before anything is computed, for a place whose package isn't installed."""
    for name in config.tracking.to:
        if name not in PACKAGES:
            raise ConfigError(f"tracking.to={name}: use one of {', '.join(PACKAGES)}")
        if find_spec(PACKAGES[name]) is None:
            raise ConfigError(f"tracking.to={name}: {PACKAGES[name]} is not installed: pip install nopsd[{name}]")


def open_sinks(config: Config, folder: Path, first_step: int) -> list[Sink]:
    """The places of `tracking.to`. `folder`: the training's; `first_step`: what later steps left there is dropped."""
    made: list[Sink] = []
    for name in config.tracking.to:
        module = import_module(f"nopsd.train.tracking.{name}_sink")
        made.append(module.open_sink(config, folder, first_step))
    return made


def settings(config: Config) -> dict[str, Any]:
    """The configuration as a place's own record of it: flat, and without credentials."""
    return {key: value for key, value in flatten(redacted(to_plain(config))).items() if value is not None}


def run_name(config: Config) -> str:
    """What the run is called there."""
    return config.tracking.name or Path(config.run_dir).name
