"""CPU seconds and peak memory of a piece of work. Standard library alone: peers' interpreters import this too.

CPU seconds are those of all threads of this process. Memory is what the kernel counts (Linux): resident now (VmRSS)
and the most since the last reset (VmHWM), so that no short peak is missed between two samples.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType


def resident_mib() -> float:
    return _status("VmRSS")


def peak_mib() -> float:
    """The most that was resident since the process began, or since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class Spent:
    """`with Spent() as spent:` fills in cpu_s, wall_s and peak_mib, the peak above what was resident at the start."""

    cpu_s = wall_s = peak_mib = 0.0

    def __enter__(self) -> Spent:
        reset_peak()
        self._resident = resident_mib()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cpu_s, self.wall_s = time.process_time() - self._cpu, time.perf_counter() - self._wall
        self.peak_mib = peak_mib() - self._resident


def _status(key: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) / 1024
