"""Small files by which a stage's rank 0 and the command that launched it communicate: progress, and a request to stop.

DeepSpeed's launchers pass no standard input to ranks and kill them on a signal, so both go by files in the run folder:
    LOG.progress.json   rank 0 writes it: questions or steps done, and their total
    LOG.stop.json       the command writes {} on SIGTERM; rank 0 adds the message with which it stopped
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from nopsd.engine.stopping import STOP_VARIABLE, Notice
from nopsd.errors import Stopped, UserError
from nopsd.files import read_json, write_json

PROGRESS_VARIABLE = "NOPSD_PROGRESS_FILE"
COMMAND_VARIABLE = "NOPSD_COMMAND_PID"  # of the command that launched ranks on its own host
REPORT_EVERY_S = 0.25
Progress = Callable[..., None]


class ProgressFile:
    """In the launching command: passes on what rank 0 last reported, once."""

    def __init__(self, file: Path, progress: Progress | None) -> None:
        self.file, self.progress = file, progress
        self._last = ""
        file.unlink(missing_ok=True)

    def relay(self) -> None:
        if self.progress is None or not self.file.exists():
            return
        text = self.file.read_text()
        if text != self._last:
            self._last = text
            state = json.loads(text)
            self.progress(state["done"], state["total"], **state["info"])


class StopFile:
    """In the launching command: SIGTERM to it as a file that rank 0 looks for, and rank 0's answer."""

    def __init__(self, file: Path, patience_s: float) -> None:
        """`patience_s`: how long the ranks may take to finish and save their step."""
        self.file, self.patience_s, self.notice = file, patience_s, Notice()
        self.file.unlink(missing_ok=True)

    def relay(self) -> None:
        """UserError if the ranks were asked to stop too long ago."""
        if self.notice.came_at is None:
            return
        if not self.file.exists():
            write_json(self.file, {})
            print("nopsd: SIGTERM: the step is finished and saved, then this ends", file=sys.stderr, flush=True)
        if time.monotonic() - self.notice.came_at > self.patience_s:
            raise UserError(
                f"SIGTERM came, and the step was neither done nor saved {self.patience_s:g} s later "
                "(dist.timeout_s): the ranks were ended; the same command continues from the checkpoint before"
            )

    def raise_if_stopped(self, stage: str) -> None:
        """Stopped if the ranks ended early, or were done just when SIGTERM came."""
        answer = read_json(self.file) if self.file.exists() else {}
        if answer or self.notice.came_at is not None:
            raise Stopped(answer.get("message", f"stage {stage} was just done when SIGTERM came"))


def answer_stop(stopped: Stopped) -> None:
    """In rank 0 of a launched stage: tell the launching command that the stage ended early."""
    path = os.environ.get(STOP_VARIABLE)
    if path is not None and os.environ.get("RANK", "0") == "0":
        write_json(Path(path), {"message": str(stopped)})


def launched_by_command() -> bool:
    """Whether a command of ours started this rank, and lives; not if `deepspeed` was typed by hand."""
    return PROGRESS_VARIABLE in os.environ


def rank_progress() -> Progress | None:
    """In rank 0 of a launched stage: a callable that reports to the launching command; None elsewhere."""
    path = os.environ.get(PROGRESS_VARIABLE)
    if path is None or os.environ.get("RANK", "0") != "0":
        return None
    last = 0.0

    def report(done: int, total: int, **info: object) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < REPORT_EVERY_S:
            return
        last = now
        write_json(Path(path), {"done": done, "total": total, "info": info})

    return report
