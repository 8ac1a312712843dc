"""TensorBoard event files in RUN/train/tb."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nopsd.config import Config
from nopsd.train.artefacts import TENSORBOARD
from nopsd.train.tracking.groups import layout


class TensorBoard:
    """Scalars, and the layout of the custom-scalars tab."""

    def __init__(self, folder: Path, first_step: int) -> None:
        # Here and not above: the import takes seconds, and only rank 0 logs.
        from torch.utils.tensorboard import SummaryWriter

        self.board: Any = SummaryWriter(str(folder / TENSORBOARD), purge_step=first_step)
        self.board.add_custom_scalars(layout())

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One step, whole on disk when this returns."""
        for tag, value in values.items():
            self.board.add_scalar(tag, value, step)
        self.board.flush()

    def close(self) -> None:
        """The file is closed."""
        self.board.close()


def open_sink(config: Config, folder: Path, first_step: int) -> TensorBoard:
    """As `nopsd.train.tracking.base.open_sinks` asks for it."""
    return TensorBoard(folder, first_step)
