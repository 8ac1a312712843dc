"""MLflow: a local store (RUN/train/mlflow.db) unless MLFLOW_TRACKING_URI names a server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nopsd.config import Config
from nopsd.files import sha256_json
from nopsd.train.tracking.base import run_name, settings

FOLDER = "nopsd.folder"  # a tag: by which a resumed training finds its run
LONGEST = 500  # characters of a parameter's value


class Mlflow:
    """A run of the experiment `tracking.project`."""

    def __init__(self, config: Config, folder: Path) -> None:
        from mlflow.tracking import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        self.client: Any = MlflowClient(tracking_uri=uri)
        found = self.client.get_experiment_by_name(config.tracking.project)
        experiment = found.experiment_id if found else self.client.create_experiment(config.tracking.project)
        place = sha256_json(str(folder.resolve()))
        before = self.client.search_runs([experiment], f"tags.`{FOLDER}` = '{place}'")
        if before:  # resumed
            self.id: str = before[0].info.run_id
            return
        self.id = self.client.create_run(experiment, run_name=run_name(config), tags={FOLDER: place}).info.run_id
        for key, value in settings(config).items():
            self.client.log_param(self.id, key, str(value)[:LONGEST])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One step."""
        for tag, value in values.items():
            self.client.log_metric(self.id, tag, value, step=step)

    def close(self) -> None:
        """The run is marked as finished."""
        self.client.set_terminated(self.id)


def open_sink(config: Config, folder: Path, first_step: int) -> Mlflow:
    """As `nopsd.train.tracking.base.open_sinks` asks for it."""
    return Mlflow(config, folder)
