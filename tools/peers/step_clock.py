"""Seconds, memory and losses of training steps, for any trainer with a hook at a step's begin and end.

Standard library and torch alone, as in `measure`. Order of calls: the object is made when all imports are done,
`loaded` when the models are there, then `begin` and `end` of each step.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from measure import peak_mib, reset_peak, resident_mib


class StepClock:
    """`profile_step`: the number of a step whose operators are listed on stderr; none if negative."""

    def __init__(self, profile_step: int = -1) -> None:
        self.imported = resident_mib()
        self.cpu_s: list[float] = []
        self.wall_s: list[float] = []
        self.losses: list[float] = []
        self._profile_step, self._profile = profile_step, None

    def loaded(self) -> None:
        """Models are there: from now on the peak counts."""
        self.resident = resident_mib()
        reset_peak()

    def begin(self) -> None:
        if len(self.cpu_s) == self._profile_step:
            self._profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
            self._profile.__enter__()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def end(self, loss: float) -> None:
        self.cpu_s.append(time.process_time() - self._cpu)
        self.wall_s.append(time.perf_counter() - self._wall)
        self.losses.append(loss)
        if self._profile is not None:
            self._profile.__exit__(None, None, None)
            rows = self._profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25)
            print(rows, file=sys.stderr)
            self._profile = None

    def print(self, **more: Any) -> None:
        """One line of JSON. MiB are above the process with its imports alone.

        Not above the loaded models: one that is mapped from its file is resident only once it has been read.
        """
        found = {
            "cpu_s": self.cpu_s,
            "wall_s": self.wall_s,
            "losses": self.losses,
            "peak_mib": peak_mib() - self.imported,
            "loaded_mib": self.resident - self.imported,
            **more,
        }
        print(json.dumps(found), flush=True)
