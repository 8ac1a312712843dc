"""Steps that were not taken, for a loss or gradient that is not finite: counted, named, and too many refused (issue 4).

In: whether DeepSpeed took the step, and the step's sums. Out: FOLDER/skipped.jsonl, a row a skipped step: its
questions, those whose micro-batch had a loss that is not finite, and the loss. DeepSpeed's ZeRO-3 leaves weights and
moments as they were when the gradient's norm over all ranks is not finite; `learn` has it see a loss that isn't.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from nopsd.engine.broadcast import broadcast_from_rank0
from nopsd.engine.distributed import Ranks
from nopsd.errors import UserError
from nopsd.files import read_jsonl, write_jsonl

SKIPPED_IN_ROW = "skipped_in_row"  # its name among a checkpoint's extras
log = logging.getLogger(__name__)


class Sums(Protocol):
    """What a step's sums must tell: the step's loss over all ranks, and this rank's questions without a finite one."""

    @property
    def loss(self) -> float: ...

    def not_finite(self) -> list[str]: ...


class Skips:
    """`total` steps not taken since the start, `in_row` of them just now; equal on all ranks."""

    def __init__(self, folder: Path, limit: int, total: int, extras: Mapping[str, Any]) -> None:
        self.folder, self.limit, self.total = folder, limit, total
        self.in_row = int(extras.get(SKIPPED_IN_ROW, 0))

    @property
    def file(self) -> Path:
        return self.folder / "skipped.jsonl"

    def add(self, taken: bool, step: int, uids: Sequence[str], sums: Sums, ranks: Ranks) -> None:
        """Count a step. Collective if it was not taken. UserError on all ranks at `limit` of them in a row."""
        if taken:
            self.in_row = 0
            return
        self.total, self.in_row = self.total + 1, self.in_row + 1
        suspects = sorted({uid for found in ranks.all_gather_json(sums.not_finite()) for uid in found})
        row = {"step": step, "loss": str(sums.loss), "not_finite": suspects, "uids": list(uids)}
        broadcast_from_rank0(ranks, lambda: self._write(row))
        cause = f"the loss of {', '.join(suspects)}" if suspects else "the gradient (no question's loss was not finite)"
        if ranks.is_main:
            log.warning("step %d was skipped, for %s is not finite; its questions: %s", step, cause, ", ".join(uids))
        if self.in_row >= self.limit:
            raise UserError(
                f"{self.in_row} steps in a row were skipped (train.max_skipped={self.limit}), the last, step {step}, "
                f"for {cause}: see {self.file}; the checkpoints before are whole and kept in "
                f"{self.folder / 'checkpoints'}. Lower train.lr, or leave the questions out, in another run_dir"
            )

    def extras(self) -> dict[str, Any]:
        return {SKIPPED_IN_ROW: self.in_row} if self.in_row else {}

    def _write(self, row: dict[str, Any]) -> None:
        """A resumed run may come to a step again: its row takes the place of the old one and of all after it."""
        rows = read_jsonl(self.file) if self.file.exists() else []
        write_jsonl(self.file, [*(r for r in rows if r["step"] < row["step"]), row])
