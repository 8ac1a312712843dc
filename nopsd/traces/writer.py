"""Writes a trace beside the training: a thread makes and writes the files, the training only passes arrays to it.

In: `add(StepTrace)`, on rank 0. Out: a file a step. A trace is bounded: over its budget every second step is deleted,
and from then on half as many are kept, so that what is left is spread over the whole run. A disk that fails ends the
trace with a warning and never the training.
"""

from __future__ import annotations

import io
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nopsd.files import write_atomic
from nopsd.traces.schema import PROMPT_SCHEMA, PROMPTS, Prompts, StepTrace, step_path, step_table, traced_steps

WAITING = 8  # steps handed over and not yet written: with more, the training waits
log = logging.getLogger(__name__)


class TraceWriter:
    """Keeps every `every`-th step in at most `budget` bytes. `resume_step`: steps from there on, which a killed run
    has left, are deleted."""

    def __init__(self, folder: Path, every: int, budget: int, resume_step: int = 0) -> None:
        self.folder, self.every, self.budget = folder, every, budget
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sizes: dict[int, int] = {}
        for step in traced_steps(folder):
            path = step_path(folder, step)
            if step >= resume_step:
                path.unlink()
            else:
                self.sizes[step] = path.stat().st_size
        gaps = [later - earlier for earlier, later in zip(list(self.sizes), list(self.sizes)[1:])]
        while gaps and min(gaps) > self.every:  # thinned by the run that is resumed
            self.every *= 2
        self.also: Callable[[StepTrace], None] | None = None  # is given each step too, in the writer's thread
        self._queue: queue.Queue[StepTrace | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None

    def wants(self, step: int) -> bool:
        """Whether this step is kept."""
        return step % self.every == 0

    def write_prompts(self, prompts: Mapping[str, Prompts]) -> None:
        """What both roles read, by uid."""
        rows = [
            {
                "uid": uid,
                "student_ids": found.student_ids,
                "teacher_ids": found.teacher_ids,
                "demonstrations": list(found.demonstrations),
            }
            for uid, found in prompts.items()
        ]
        write_table(self.folder / PROMPTS, pa.Table.from_pylist(rows, schema=PROMPT_SCHEMA))

    def add(self, trace: StepTrace) -> None:
        """Hand a step over; it is written soon."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="trace", daemon=True)
            self._thread.start()
        self._queue.put(trace)

    def flush(self) -> None:
        """Wait until all that was handed over is written."""
        self._queue.join()

    def close(self) -> None:
        """Wait until all that was handed over is written."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _write_all(self) -> None:
        failed = False
        while (trace := self._queue.get()) is not None:
            try:
                if not failed and self.wants(trace.step):
                    self._write(trace)
                if self.also is not None:
                    self.also(trace)
            except OSError as error:
                failed = True
                log.warning("no more of the trace is kept: %s can't be written (%s)", self.folder, error)
            finally:
                self._queue.task_done()

    def _write(self, trace: StepTrace) -> None:
        self.sizes[trace.step] = write_table(step_path(self.folder, trace.step), step_table(trace))
        while sum(self.sizes.values()) > self.budget and len(self.sizes) > 1:
            self.every *= 2
            for step in [step for step in self.sizes if not self.wants(step)]:
                step_path(self.folder, step).unlink(missing_ok=True)
                del self.sizes[step]
            log.warning("the trace has reached train.trace_mib: every %d-th step is kept from now on", self.every)


def write_table(path: Path, table: pa.Table) -> int:
    """Write a parquet file atomically; its size in bytes."""
    buffer = io.BytesIO()
    # No dictionaries and statistics: they cost more than they save in columns of different numbers.
    pq.write_table(table, buffer, compression="zstd", use_dictionary=False, write_statistics=False)
    data = buffer.getvalue()
    write_atomic(path, data)
    return len(data)
