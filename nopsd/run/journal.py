"""What happened in a run, for `nopsd status`: when each stage began, how it ended, and how far the current one is.

    RUN/journal.jsonl   a line when a stage begins, and one when it ends
    RUN/progress.json   what the current stage last reported

Nothing that a stage makes depends on them. Written by the process that the user started, or by rank 0.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from nopsd.errors import Stopped, UserError
from nopsd.files import read_json, write_json

JOURNAL, PROGRESS = "journal.jsonl", "progress.json"
REPORT_EVERY_S = 1.0


@contextmanager
def recorded(root: Path, stage: str, ranks: int) -> Iterator[Callable[..., None]]:
    """Around a stage's work by so many processes: its begin and end as lines. Gives what progress is reported to."""
    own = psutil.Process()
    began = time.time()
    start = {"pid": own.pid, "created": own.create_time(), "host": platform.node(), "ranks": ranks}
    _append(root, {"stage": stage, "event": "begin", "at": began, **start})
    outcome, error = "done", None
    try:
        yield _Reporter(root, stage, began)
    except BaseException as raised:
        outcome = "interrupted" if isinstance(raised, (KeyboardInterrupt, Stopped)) else "failed"
        error = str(raised) if isinstance(raised, (UserError, Stopped)) else f"{type(raised).__name__}: {raised}"
        raise
    finally:
        _append(root, {"stage": stage, "event": "end", "at": time.time(), "outcome": outcome, "error": error})


@contextmanager
def refusal_recorded(root: Path, stage: str) -> Iterator[None]:
    """Around the checks before any work: what is refused there is the stage's error."""
    try:
        yield
    except UserError as error:
        _append(root, {"stage": stage, "event": "end", "at": time.time(), "outcome": "failed", "error": str(error)})
        raise


class _Reporter:
    def __init__(self, root: Path, stage: str, began: float) -> None:
        self.file, self.stage, self.since = root / PROGRESS, stage, began
        self.first: int | None = None
        self.total, self.written = 0, 0.0

    def __call__(self, done: int, total: int, **info: Any) -> None:
        now = time.time()
        if self.first is None or total != self.total or done < self.first:  # another part of the stage
            self.first, self.total, self.since = done, total, now
        elif now - self.written < REPORT_EVERY_S and done < total:
            return
        self.written = now
        pace = {"first": self.first, "since": self.since, "at": now}
        write_json(self.file, {"stage": self.stage, "done": done, "total": total, **pace})


def _append(root: Path, row: dict[str, Any]) -> None:
    with open(root / JOURNAL, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_journal(root: Path) -> list[dict[str, Any]]:
    """Lines, oldest first; a last line that a kill cut off is left out. None of a run from before they were kept."""
    path = root / JOURNAL
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.split("\n") if line]


def read_progress(root: Path, stage: str) -> dict[str, Any] | None:
    """What the stage last reported; None if it was another, or none."""
    path = root / PROGRESS
    found: dict[str, Any] | None = read_json(path) if path.exists() else None
    return found if found and found["stage"] == stage else None


def is_alive(begin: dict[str, Any]) -> bool | None:
    """Whether the process of a `begin` line is still there; None on another host, where it can't be seen."""
    if begin["host"] != platform.node():
        return None
    try:
        return bool(abs(psutil.Process(begin["pid"]).create_time() - begin["created"]) < 1.0)
    except psutil.NoSuchProcess:
        return False


def both(*listeners: Callable[..., None]) -> Callable[..., None]:
    """Progress reported to several."""

    def report(done: int, total: int, **info: Any) -> None:
        for listener in listeners:
            listener(done, total, **info)

    return report
