"""Signs of collapse: warn when a number passes its limit, stop once it has for `guard.patience` steps in a row.

In:  the rows of the training log (`nopsd.train.algorithms.distill_metrics`, `nopsd.train.probe`), equal on all ranks.
Out: a number a guard for the same row, guard/<key of GuardConfig>: how many steps (or probes) in a row its limit has
     been passed; `Stop` once that is enough; the state that a checkpoint carries.

What each looks for (SPEC §11; issue 4): lengths that shrink or run away and an entropy that explodes (F1), an entropy
of nothing, repeated 4-grams and answers that can't be read (F8), drift from the teacher and from the base (F9).
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from nopsd.config import GuardConfig

PREFIX = "guard/"
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
    "min_entropy": Watch("entropy_student", "the student's entropy", "nats", above=False),
    "max_entropy_ratio": Watch("entropy_student", "the student's entropy", "nats", floor=0.1),
    "max_repeated": Watch("repeated_4grams", "share of repeated 4-grams", ""),
    "max_unparsed": Watch("probe/unparsed_share", "share of unreadable probe answers", "", from_within=True),
    "max_kl_ratio": Watch("kl_reverse", "KL(student ‖ teacher)", "nats a token", floor=0.1),
    "max_kl_base": Watch("kl_base", "KL(student ‖ base)", "nats a token"),
}


@dataclass(frozen=True)
class Stop:
    """Why a run ended before its last step: how many steps it had done, and the reason in words."""

    step: int
    reason: str


class Guards:
    """The guards of one run. `state`: what `state()` gave when the checkpoint was written, or None."""

    def __init__(self, config: GuardConfig, state: Mapping[str, Any] | None = None) -> None:
        state = state or {}
        self.config = config
        self.first: dict[str, list[float]] = {k: list(v) for k, v in state.get("first", {}).items()}
        self.streaks: dict[str, int] = dict(state.get("streaks", {}))
        self.sound_step: int | None = state.get("sound_step")  # of the newest checkpoint with no limit passed
        self.stopped: Stop | None = None

    def observe(self, step: int, row: Mapping[str, float], speak: bool = True) -> dict[str, float]:
        """Step `step`'s row (from 0): the streaks, named guard/<key>. Sets `stopped`; `speak`: log what is passed."""
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
                    self._passed(key, step, value, limit, speak)
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
    def sound(self) -> bool:
        """No limit is passed at the moment; always so where guards only warn."""
        return not self.config.stop or not any(self.streaks.values())

    def told(self) -> dict[str, str]:
        """For the console: the guard nearest to a stop, if any is passed."""
        key = max(self.streaks, key=lambda k: self.streaks[k], default="")
        return {"guard": f"{key} {self.streaks[key]}/{self.config.patience}"} if self.streaks.get(key) else {}

    def state(self, step: int) -> dict[str, Any]:
        """What the checkpoint of `step` carries (JSON), itself counted as sound if it is."""
        self.sound_step = step if self.sound else self.sound_step
        return {"first": self.first, "streaks": self.streaks, "sound_step": self.sound_step}

    def _passed(self, key: str, step: int, value: float, limit: float, speak: bool) -> None:
        watch, streak, patience = WATCHES[key], self.streaks[key], self.config.patience
        unit, beyond = f" {watch.unit}".rstrip(), "above" if watch.above else "below"
        words = f"{watch.what} {value:.4g}{unit}, {beyond} the limit of {limit:.4g} (guard.{key})"
        if streak == 1 and speak:
            ends = f"; {patience} in a row stop the run" if self.config.stop else ""
            log.warning("step %d: %s%s", step, words, ends)
        if streak >= patience and self.config.stop and self.stopped is None:
            times = "probes" if watch.number.startswith("probe/") else "steps"
            self.stopped = Stop(step + 1, f"{words} for {streak} {times} in a row")
            if speak:
                log.warning("stopped after %d steps: %s", step + 1, self.stopped.reason)


def repeated_ngrams(responses: Sequence[Sequence[int]], n: int = 4) -> float:
    """Mean over responses (token ids) of the share of a response's n-grams that occur in it more than once.

    One shorter than `n` tokens has none, and counts 0. A loop nears 1.
    """
    return math.fsum(_repeated_share(ngrams(ids, n)) for ids in responses) / len(responses)


def distinct_ngrams(responses: Sequence[Sequence[int]], n: int = 4) -> float:
    """Different n-grams of all responses over all n-grams (distinct-n, arXiv 1510.03055); 1 if there are none.

    It falls where responses to different questions grow alike.
    """
    counts: Counter[tuple[int, ...]] = Counter()
    for ids in responses:
        counts.update(ngrams(ids, n))
    return len(counts) / counts.total() if counts else 1.0


def ngrams(ids: Sequence[int], n: int) -> Counter[tuple[int, ...]]:
    return Counter(zip(*(islice(ids, start, None) for start in range(n))))


def _repeated_share(counts: Counter[tuple[int, ...]]) -> float:
    total = counts.total()
    return sum(count for count in counts.values() if count > 1) / total if total else 0.0
