"""TensorBoard event files in RUN/train/tb."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nopsd.config import Config
from nopsd.traces.schema import COUNTED, StepTrace
from nopsd.train.artefacts import TENSORBOARD
from nopsd.train.tracking.groups import layout

EVERY = 10  # steps between histograms and texts
HISTOGRAMS = {
    "reverse_kl": "teacher_student/kl_by_token",
    "student_entropy": "teacher_student/student_entropy_by_token",
}


class TensorBoard:
    """Scalars and the layout of the custom-scalars tab; histograms by token and responses as text."""

    def __init__(self, folder: Path, first_step: int) -> None:
        # Here and not above: the import takes seconds, and only rank 0 logs.
        from torch.utils.tensorboard import SummaryWriter

        self.board: Any = SummaryWriter(str(folder / TENSORBOARD), purge_step=first_step)
        self.board.add_custom_scalars(layout())
        self.shown: int | None = None  # the last step of which responses were shown

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One step, whole on disk when this returns."""
        for tag, value in values.items():
            self.board.add_scalar(tag, value, step)
        self.board.flush()

    def responses(self, trace: StepTrace) -> None:
        """Histograms over a step's tokens, and two of its responses as text: at most every `EVERY`-th step."""
        if self.shown is not None and trace.step < self.shown + EVERY:
            return
        self.shown = trace.step
        counted = np.asarray(trace.values[COUNTED], dtype=bool)
        for name, tag in HISTOGRAMS.items():
            if name in trace.values and len(values := trace.values[name][counted]):
                self.board.add_histogram(tag, values, trace.step)
        for tag, text in response_texts(trace).items():
            self.board.add_text(tag, text, trace.step)
        self.board.flush()

    def close(self) -> None:
        """The file is closed."""
        self.board.close()


def response_texts(trace: StepTrace) -> dict[str, str]:
    """The step's first response, and the one on which student and teacher differ most a token, by tag."""
    chosen = {"first": 0}
    if "reverse_kl" in trace.values:
        ends = np.cumsum([len(r.response_ids) for r in trace.rollouts])[:-1]
        kl = [
            float(np.nanmean(part)) if np.isfinite(part).any() else -1.0
            for part in np.split(trace.values["reverse_kl"], ends)
        ]
        chosen["highest_kl"] = int(np.argmax(kl))
    found = {}
    for name, row in chosen.items():
        rollout = trace.rollouts[row]
        about = f"{rollout.uid}, {len(rollout.response_ids)} tokens, {rollout.finish_reason}"
        if name == "highest_kl":
            about += f", KL {kl[row]:.3f} nats a token"
        found[f"responses/{name}"] = f"{about}\n\n{as_code(rollout.text)}"
    return found


def as_code(text: str) -> str:
    """Markdown that shows the text as it is: an indented block, in which nothing is markup; no control characters."""
    lines = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text.expandtabs(4)).split("\n")
    return "\n".join(f"    {line}" for line in lines)


def open_sink(config: Config, folder: Path, first_step: int) -> TensorBoard:
    """As `nopsd.train.tracking.base.open_sinks` asks for it."""
    return TensorBoard(folder, first_step)
