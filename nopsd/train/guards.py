"""Signs of collapse: warn when a number passes its limit, stop once it has for `guard.patience` steps in a row.
And steps that were not taken: counted, named, and too many refused.

In:  the rows of the training log (`nopsd.train.metrics`), equal on all ranks.
Out: a number a guard for the same row, guard/<key of GuardConfig>: how many steps (or probes) in a row its limit has
     been passed; `Stop` once that is enough; the state that a checkpoint carries.

Watched for: lengths that shrink or run away, an entropy that explodes or vanishes, repeated 4-grams, answers that
can't be read, drift from the teacher and from the base.

A step is skipped for a loss or gradient that is not finite: DeepSpeed's ZeRO-3 leaves weights and moments as they were
when the gradient's norm over all ranks is not finite, and the loop has it see a loss that isn't.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nopsd.config import GuardConfig
from nopsd.engine.distributed import Ranks, broadcast_from_rank0
from nopsd.errors import UserError
from nopsd.files import read_jsonl, write_jsonl
from nopsd.train.metrics import StepSums

PREFIX = "guard/"
SKIPPED_IN_ROW = "skipped_in_row"  # its name among a checkpoint's extras
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Watch:
    """One guard: the number it reads, on which side of the limit it is, and what the limit is counted in."""

    number: str  # its name in the row
    what: str
    unit: str
    above: bool = True  # False: the limit is the least
    floor: float | None = None  # the limit is a multiple of the first steps' mean, which counts as at least this
    from_within: bool = False  # only where the first value was within the limit


# Floors keep a multiple of next to nothing from being an alarm: a narrow task's entropy of 0.01 nats may rise tenfold.
WATCHES = {
    "min_length_ratio": Watch("response_length_mean", "mean response length", "tokens", above=False, floor=1.0),
    "max_length_ratio": Watch("response_length_mean", "mean response length", "tokens", floor=1.0),
    "min_entropy": Watch("student_entropy", "the student's entropy", "nats", above=False),
    "max_entropy_ratio": Watch("student_entropy", "the student's entropy", "nats", floor=0.1),
    "max_repeated": Watch("repeated_4grams", "share of repeated 4-grams", ""),
    "max_unparsed": Watch("probe/unparsed_share", "share of unreadable probe answers", "", from_within=True),
    "max_kl_ratio": Watch("reverse_kl", "KL(student ‖ teacher)", "nats a token", floor=0.1),
    "max_kl_base": Watch("base_kl", "KL(student ‖ base)", "nats a token"),
}


@dataclass(frozen=True)
class Stop:
    """Why a run ended before its last step: how many steps it had done, and the reason."""

    step: int
    reason: str


class Guards:
    """The guards of one run. `state`: what `state()` gave when the checkpoint was written, or None."""

    def __init__(self, config: GuardConfig, state: Mapping[str, Any] | None = None) -> None:
        state = state or {}
        self.config = config
        self.first: dict[str, list[float]] = {k: list(v) for k, v in state.get("first", {}).items()}
        self.streaks: dict[str, int] = dict(state.get("streaks", {}))
        self.last_good_step: int | None = state.get("last_good_step")  # of the newest checkpoint with no limit passed
        self.stopped: Stop | None = None

    def observe(self, step: int, row: Mapping[str, float], log_it: bool = True) -> dict[str, float]:
        """Take in a step's row, and set `stopped` where a guard's limit was passed for too long.

        Args:
            step: From 0.
            row: The step's metrics.
            log_it: Log what is passed.

        Returns:
            The streaks, named guard/<key>.
        """
        for number in {watch.number for watch in WATCHES.values()}:
            first = self.first.setdefault(number, [])
            if len(first) < self.config.baseline_steps and math.isfinite(row.get(number, math.nan)):
                first.append(float(row[number]))
        streaks: dict[str, float] = {}
        for key, watch in WATCHES.items():
            value, limit = row.get(watch.number, math.nan), self.limit(key)
            if limit is not None and math.isfinite(value):  # a step without the number leaves the streak as it is
                passed = value > limit if watch.above else value < limit
                self.streaks[key] = self.streaks.get(key, 0) + 1 if passed else 0
                if passed:
                    self._passed(key, step, value, limit, log_it)
            if getattr(self.config, key) is not None:
                streaks[PREFIX + key] = self.streaks.get(key, 0)
        return streaks

    def limit(self, key: str) -> float | None:
        """The guard's limit in the unit of its number; None while it is not watched."""
        setting, watch = getattr(self.config, key), WATCHES[key]
        first = self.first.get(watch.number, [])
        if setting is None:
            return None
        if watch.floor is not None:
            whole = len(first) >= self.config.baseline_steps
            return float(setting * max(math.fsum(first) / len(first), watch.floor)) if whole else None
        return None if watch.from_within and first and first[0] > setting else float(setting)

    @property
    def healthy(self) -> bool:
        """No limit is passed at the moment; always so where guards only warn."""
        return not self.config.stop or not any(self.streaks.values())

    def summary(self) -> dict[str, str]:
        """For the console: the guard nearest to a stop, if any is passed."""
        key = max(self.streaks, key=lambda k: self.streaks[k], default="")
        return {"guard": f"{key} {self.streaks[key]}/{self.config.patience}"} if self.streaks.get(key) else {}

    def state(self, step: int) -> dict[str, Any]:
        """What the checkpoint of `step` carries (JSON), which is itself the last good one if it is healthy."""
        self.last_good_step = step if self.healthy else self.last_good_step
        return {"first": self.first, "streaks": self.streaks, "last_good_step": self.last_good_step}

    def _passed(self, key: str, step: int, value: float, limit: float, log_it: bool) -> None:
        watch, streak, patience = WATCHES[key], self.streaks[key], self.config.patience
        unit, beyond = f" {watch.unit}".rstrip(), "above" if watch.above else "below"
        message = f"{watch.what} {value:.4g}{unit}, {beyond} the limit of {limit:.4g} (guard.{key})"
        if streak == 1 and log_it:
            ends = f"; {patience} in a row stop the run" if self.config.stop else ""
            log.warning("step %d: %s%s", step, message, ends)
        if streak >= patience and self.config.stop and self.stopped is None:
            times = "probes" if watch.number.startswith("probe/") else "steps"
            self.stopped = Stop(step + 1, f"{message} for {streak} {times} in a row")
            if log_it:
                log.warning("stopped after %d steps: %s", step + 1, self.stopped.reason)


@dataclass
class SkippedSteps:
    """`total` steps not taken since the start, `in_row` of them just now; equal on all ranks."""

    folder: Path
    limit: int
    total: int
    in_row: int = 0  # a checkpoint carries it

    @property
    def file(self) -> Path:
        """A row a skipped step: its questions, those whose micro-batch had a loss that is not finite, and the loss."""
        return self.folder / "skipped.jsonl"

    def add(self, step: int, uids: Sequence[str], sums: StepSums, ranks: Ranks) -> None:
        """Count a step that was not taken. Collective.

        Args:
            step: From 0.
            uids: Its questions.
            sums: Of its loss, which say whose isn't finite.
            ranks: All that train.

        Raises:
            UserError: On all ranks, at `limit` of them in a row.
        """
        self.total, self.in_row = self.total + 1, self.in_row + 1
        suspects = sorted({uid for found in ranks.all_gather_json(sums.not_finite()) for uid in found})
        row = {"step": step, "loss": str(float(sums.sums[0])), "not_finite": suspects, "uids": list(uids)}
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

    def _write(self, row: dict[str, Any]) -> None:
        """A resumed run may come to a step again: its row takes the place of the old one and of all after it."""
        rows = read_jsonl(self.file) if self.file.exists() else []
        write_jsonl(self.file, [*(r for r in rows if r["step"] < row["step"]), row])
