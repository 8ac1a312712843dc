"""Training numbers, a row a step: `metrics.jsonl` for programs, and the places of `tracking.to` for people.

In:  `log(step, {name: number})`, called by rank 0 once a step.
Out: FOLDER/metrics.jsonl, one object a line: {"step": 3, "loss": 0.12, ...}; the same to each `Sink`, by group.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nopsd.errors import ArtefactError
from nopsd.files import write_atomic
from nopsd.traces.schema import StepTrace
from nopsd.train.artefacts import METRICS
from nopsd.train.tracking.base import Sink
from nopsd.train.tracking.groups import Shown

NONFINITE = "nonfinite"
log = logging.getLogger(__name__)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl, oldest first; none if it is absent.

    A last line without its newline is what a kill leaves behind and is ignored; any other line that
    can't be read is an ArtefactError.
    """
    if not path.exists():
        return []
    whole, _, _torn = path.read_text(encoding="utf-8").rpartition("\n")
    rows = []
    for number, line in enumerate(filter(None, whole.split("\n")), start=1):
        try:
            row = json.loads(line)
            row["step"] = int(row["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise ArtefactError(f"{path} line {number} is damaged: remove that line") from error
        rows.append(row)
    return rows


class MetricsLog:
    """Appends rows, each one whole on disk when `log` returns. Steps logged before a resume's are kept.

    `resume_step` is the first step about to be logged: rows of that step and later, left by the run
    that was killed, are dropped (atomically). A sink that fails is left with a warning: the file has every row.
    """

    def __init__(self, folder: Path, resume_step: int = 0, sinks: Sequence[Sink] = ()) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / METRICS
        kept = [row for row in read_metrics(self.path) if row["step"] < resume_step]
        write_atomic(self.path, "".join(_line(row) for row in kept))
        self.nonfinite = sum(int(row.get(NONFINITE, 0)) for row in kept)
        self._file = open(self.path, "a", encoding="utf-8")
        self._sinks, self._shown = list(sinks), Shown()
        for row in kept:
            self._shown(row)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One row. NaN and infinity become null, and the row's `nonfinite` says how many there were."""
        row: dict[str, Any] = {"step": int(step)}
        lost = 0
        for name, value in values.items():
            number = float(value)
            row[name] = _plain(value, number) if math.isfinite(number) else None
            lost += row[name] is None
        if lost:
            row[NONFINITE] = lost
            self.nonfinite += lost
        self._file.write(_line(row))
        self._file.flush()
        shown = self._shown(row)
        for sink in list(self._sinks):
            self._told(sink, partial(sink.scalars, int(step), shown))

    def responses(self, trace: StepTrace) -> None:
        """What a step's responses look like, to the places that show it. From any thread."""
        for sink in list(self._sinks):
            if show := getattr(sink, "responses", None):
                self._told(sink, partial(show, trace))

    def _told(self, sink: Sink, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception as error:  # whatever a tracker's own client raises must not end a training
            log.warning("%s is left out from here on: %s", type(sink).__name__, error)
            self._sinks = [other for other in self._sinks if other is not sink]

    def close(self) -> None:
        self._file.close()
        for sink in list(self._sinks):
            self._told(sink, sink.close)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _plain(value: Any, number: float) -> float | int:
    return int(value) if isinstance(value, int) else number


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
