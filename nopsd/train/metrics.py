"""Numbers of a step that every way of training logs: phases' times, and what its responses look like (SPEC §9.5)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from nopsd.rollout.types import Rollout
from nopsd.train.guards import distinct_ngrams, repeated_ngrams


class Clock:
    """Wall seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def values(self) -> dict[str, float]:
        """time/PHASE for the log."""
        return {f"time/{phase}": seconds for phase, seconds in self.seconds.items()}


def response_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Lengths, truncation, repetition and variety of a step's responses (F3, F8)."""
    responses = [r.response_ids for r in rollouts]
    lengths = [len(ids) for ids in responses]
    return {
        "response_length_mean": mean(lengths),
        "response_length_max": max(lengths),
        "truncated_share": mean([r.truncated for r in rollouts]),
        "repeated_4grams": repeated_ngrams(responses),
        "distinct_4grams": distinct_ngrams(responses),
    }


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
