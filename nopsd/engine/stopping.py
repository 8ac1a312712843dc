"""A scheduler's request to stop: on SIGTERM training finishes its step, saves and ends.

In: SIGTERM to any rank, or a file that the command which launched the ranks leaves (`STOP_VARIABLE` names it;
nopsd.cluster.rank_files). Out: at each step's end, one answer for all ranks. The file reaches ranks on other hosts
too, and is not intercepted by DeepSpeed's launchers, which would kill their ranks on a signal.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a rank must listen before it imports torch
    from nopsd.engine.distributed import Ranks

STOP_VARIABLE = "NOPSD_STOP_FILE"
# `timeout` and DeepSpeed's launcher may each pass on what a scheduler sent to all: that is one notice, not two.
SAME_NOTICE_S = 2.0


class Notice:
    """Whether SIGTERM has come to this process. One that comes again, later, interrupts."""

    def __init__(self) -> None:
        self.came_at: float | None = None

    def listen(self) -> None:
        """Take SIGTERM from now on, one that waits since the start included. Main thread only."""
        signal.signal(signal.SIGTERM, self._take)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def _take(self, number: int, frame: object) -> None:
        if self.came_at is not None and time.monotonic() - self.came_at > SAME_NOTICE_S:
            raise KeyboardInterrupt
        self.came_at = self.came_at or time.monotonic()


NOTICE = Notice()  # of this process: signals are the process's


class StopRequest:
    """Asked of all ranks together whether to end after the present step."""

    def __init__(self, file: Path | None = None, notice: Notice | None = None) -> None:
        self.file, self.notice = file, notice or Notice()

    @classmethod
    def of_this_process(cls) -> StopRequest:
        """By `NOTICE`, if it listens, and by the file of the command that launched us."""
        file = os.environ.get(STOP_VARIABLE)
        return cls(Path(file) if file else None, NOTICE)

    def made(self, ranks: Ranks) -> bool:
        """True on every rank if any has received the request. Collective."""
        import torch

        asked = self.notice.came_at is not None or (ranks.is_main and self.file is not None and self.file.exists())
        return bool(ranks.all_max(torch.tensor([float(asked)])))
