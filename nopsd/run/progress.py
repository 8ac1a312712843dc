"""Console progress of `nopsd run`: a line for each stage, a bar inside it, an estimate of the time left.

    with StageProgress("neurons: score every neuron", 3, 8) as stage:
        score(..., progress=stage)          # stage(done, total, **info)

    [3/8] neurons: score every neuron ...
          neurons: waiting for the rollout server (its log: ...): 20 s so far
          neurons: 320/1600 (20 %), 48 s left; run: 12 min 10 s left
          done in 1 min 02 s

On a terminal the bar moves (tqdm). Elsewhere (a log file, CI) a plain line appears about every ten
seconds or tenth of the way, so that nothing is redrawn and nothing is silent. What a stage waits for before it can
report anything is said on both, ever more rarely.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TextIO

from tqdm import tqdm

from nopsd.errors import Stopped
from nopsd.terminal import painted

PLAIN_SECONDS = 10.0  # without a new line for longer than this, print one
PLAIN_SHARE = 0.1  # and one each tenth of the way,
PLAIN_LEAST_SECONDS = 2.0  # but never faster than this
WAIT_SHARE = 0.25  # of a wait passes before its next line,
WAIT_MOST_SECONDS = 60.0  # but never more than this

WaitsFor = Callable[[str], AbstractContextManager[None]]  # around a wait, given what for


def unsaid(what: str) -> AbstractContextManager[None]:
    """A WaitsFor that tells nobody."""
    return nullcontext()


class StageProgress:
    """A stage's place on the console; call it as `progress(done, total, **info)`.

    `done` counts what is finished, earlier runs' parts included; the estimate uses this run's pace
    only. `info` is shown beside the bar. A new `total`, or a `done` that falls, begins a new bar.
    `name` may say what the stage does after a colon; the bar shows the part before it. `overall` gives a text about
    the whole run, which is asked for every ten seconds.
    """

    def __init__(
        self,
        name: str,
        index: int,
        total_stages: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        overall: Callable[[], str] | None = None,
    ) -> None:
        self._overall: Callable[[], str] = _Rarely(overall, clock) if overall is not None else str
        self._awaited: tuple[str, float, float] | None = None  # what, since when, when its next line comes
        self._lock, self._ended = threading.RLock(), threading.Event()
        self._head = f"[{index}/{total_stages}] {name} ..."
        self._margin = " " * (len(f"[{index}/{total_stages}]") + 1)
        self._label = self._margin + name.split(":")[0]
        self._stream = sys.stdout if stream is None else stream
        self._clock = clock
        self._outcome = ""
        self._part: _Bar | _Lines | None = None

    def __enter__(self) -> StageProgress:
        self._started = self._clock()
        print(self._head, end="", file=self._stream, flush=True)
        self._head_open = True  # the cursor still stands behind it
        threading.Thread(target=self._tick_until_the_end, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self._ended.set()
        with self._lock:
            self._end_part()
            self._awaited = None
        elapsed = duration(self._clock() - self._started)
        if kind is None:
            outcome = painted(self._outcome or f"done in {elapsed}", "green", self._stream)
        elif issubclass(kind, (KeyboardInterrupt, Stopped)):
            outcome = painted(f"interrupted after {elapsed}", "yellow", self._stream)
        else:
            outcome = painted(f"failed after {elapsed}", "red", self._stream)
        print((" " if self._head_open else self._margin) + outcome, file=self._stream, flush=True)

    def up_to_date(self) -> None:
        """The stage had nothing to do: say so instead of a time."""
        self._outcome = "up to date"

    def __call__(self, done: int, total: int, **info: Any) -> None:
        with self._lock:
            self._awaited = None
            part = self._part
            if part is None or part.total != total or done < part.done:
                self._end_part()
                self._end_head()
                kind = _Bar if self._stream.isatty() else _Lines
                part = self._part = kind(_Shown(self._label, total, self._stream, self._clock, self._overall), done)
            part.update(done, info)

    @contextmanager
    def waits_for(self, what: str) -> Iterator[None]:
        """While nothing can be reported because of it: say so, and for how long already."""
        with self._lock:
            now = self._clock()
            before, self._awaited = self._awaited, (what, now, now + PLAIN_SECONDS)
        try:
            yield
        finally:
            with self._lock:
                if self._awaited is not None:  # nothing was reported meanwhile
                    self._awaited = before

    def tick(self) -> None:
        """Called every second by a thread."""
        with self._lock:
            now = self._clock()
            if self._awaited is None or now < self._awaited[2]:
                return
            what, since, _ = self._awaited
            waited = now - since
            gap = min(max(PLAIN_SECONDS, WAIT_SHARE * waited), WAIT_MOST_SECONDS)
            self._awaited = what, since, now + gap
            self._end_part()
            self._end_head()
            print(f"{self._label}: waiting for {what}: {duration(waited)} so far", file=self._stream, flush=True)

    def _tick_until_the_end(self) -> None:
        while not self._ended.wait(1.0):
            self.tick()

    def _end_head(self) -> None:
        if self._head_open:
            print(file=self._stream, flush=True)
            self._head_open = False

    def _end_part(self) -> None:
        if self._part is not None:
            self._part.close()
            self._part = None


class _Rarely:
    """A text that is costly to make: made anew after PLAIN_SECONDS."""

    def __init__(self, make: Callable[[], str], clock: Callable[[], float]) -> None:
        self._make, self._clock = make, clock
        self._text, self._until = "", -1.0

    def __call__(self) -> str:
        if self._clock() >= self._until:
            self._text, self._until = self._make(), self._clock() + PLAIN_SECONDS
        return self._text


@dataclass(frozen=True)
class _Shown:
    """What is counted, and where; `overall`: a text about the whole run."""

    label: str
    total: int
    stream: TextIO
    clock: Callable[[], float]
    overall: Callable[[], str]


class _Bar:
    """A moving bar."""

    def __init__(self, shown: _Shown, done: int) -> None:
        self.done, self.total, self._overall = done, shown.total, shown.overall
        self._bar = tqdm(
            total=shown.total,
            initial=done,
            desc=shown.label,
            file=shown.stream,
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left{postfix}]",
        )

    def update(self, done: int, info: dict[str, Any]) -> None:
        if shown := ", ".join(part for part in (self._overall(), _info(info)) if part):
            self._bar.set_postfix_str(shown, refresh=False)
        self._bar.update(done - self.done)
        self.done = done

    def close(self) -> None:
        self._bar.close()


class _Lines:
    """A plain line now and then."""

    def __init__(self, shown: _Shown, done: int) -> None:
        self.done, self.total, self._overall = done, shown.total, shown.overall
        self._label, self._stream, self._clock = shown.label, shown.stream, shown.clock
        self._began, self._first = shown.clock(), done
        self._shown_at, self._shown_done = self._began, done

    def update(self, done: int, info: dict[str, Any]) -> None:
        self.done = done
        now = self._clock()
        waited, moved = now - self._shown_at, (done - self._shown_done) / max(self.total, 1)
        if waited < PLAIN_SECONDS and (moved < PLAIN_SHARE or waited < PLAIN_LEAST_SECONDS):
            return
        self._shown_at, self._shown_done = now, done
        percent = 100 * done / self.total if self.total else 100
        shown = f", {_info(info)}" if info else ""
        overall = f"; {text}" if (text := self._overall()) else ""
        print(
            f"{self._label}: {done}/{self.total} ({percent:.0f} %){self._left(now)}{overall}{shown}",
            file=self._stream,
            flush=True,
        )

    def _left(self, now: float) -> str:
        made, spent = self.done - self._first, now - self._began
        if made <= 0 or self.done >= self.total:
            return ""
        return f", {duration(spent / made * (self.total - self.done))} left"

    def close(self) -> None:
        """Nothing is left open."""


def duration(seconds: float) -> str:
    """`4.2 s`, `48 s`, `3 min 05 s`, `1 h 02 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _info(info: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in info.items())
