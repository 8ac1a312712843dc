"""How far demonstrations move a question's answers (the selector `belief_shift`, after INFLOW).

    JS(answers zero-shot || answers with demonstrations), natural log, in [0, log 2]

Pure, apart from the sampling: responses to the prompts with demonstrations, from the served base model. An answer that
can't be read is an outcome of its own. No label is known here.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nopsd.config import SamplingConfig
from nopsd.data.records import Question
from nopsd.engine.distributed import Ranks, broadcast_from_rank0
from nopsd.errors import DataError
from nopsd.rollout.stage import Generator, run_rollouts
from nopsd.rollout.types import Rollout
from nopsd.signals.agreement import Answers

HEARTBEAT_S = 20.0  # far within any process group's timeout
UNREAD = ""  # the outcome of answers that can't be read; no answer is an empty text
T = TypeVar("T")


def answer_distribution(answers: Sequence[str | None]) -> dict[str, float]:
    """Relative frequencies of the outcomes."""
    counts = Counter(UNREAD if answer is None else answer for answer in answers)
    return {outcome: count / len(answers) for outcome, count in counts.items()}


def jensen_shannon(p: Mapping[str, float], q: Mapping[str, float]) -> float:
    """JS(p ‖ q) = (KL(p ‖ m) + KL(q ‖ m)) / 2 with m = (p + q) / 2: symmetric, 0 only for equal distributions.

    Args:
        p: Probabilities by answer; `q` likewise.

    Returns:
        Nats, at most log 2.
    """
    total = 0.0
    for outcome in sorted({*p, *q}):
        a, b = p.get(outcome, 0.0), q.get(outcome, 0.0)
        middle = (a + b) / 2
        total += sum(mass * math.log(mass / middle) for mass in (a, b) if mass > 0)
    return max(total / 2, 0.0)


def belief_shift(without: Answers, demonstrated: Answers) -> np.ndarray:
    """JS of each question [N] float32, in the order of `without`. DataError if one has no answers on either side."""
    for uid in without:
        if not without[uid] or not demonstrated.get(uid):
            raise DataError(f"question {uid} has no sampled answers with demonstrations: run the signals stage again")
    shifts = [
        jensen_shannon(answer_distribution(without[uid]), answer_distribution(demonstrated[uid])) for uid in without
    ]
    return np.array(shifts, dtype=np.float32)


def sample_demonstrated(
    questions: Sequence[Question],
    prompts: Sequence[list[int]],
    client: Generator,
    sampling: SamplingConfig,
    samples: int,
    seed: int,
    folder: Path,
    progress: Callable[..., None] | None = None,
) -> list[Rollout]:
    """Responses to prompts with demonstrations, from the base model. For one process; finished parts survive a kill.

    Args:
        questions: Q of them.
        prompts: Token ids of each, with demonstrations.
        client: Of servers that hold the base model (policy version 0).
        sampling: Temperature and its like.
        samples: Responses to a prompt.
        seed: Of the sampling.
        folder: Where rollouts.parquet goes.
        progress: Called with the responses done and their total.

    Raises:
        ArtefactError, ServerError: As `run_rollouts`.
    """
    asked = replace(sampling, n=samples)
    return run_rollouts(questions, prompts, client, asked, seed, folder, 0, progress)


def broadcast_with_heartbeat(ranks: Ranks, call: Callable[[Callable[[], None]], T], every_s: float = HEARTBEAT_S) -> T:
    """As `engine.distributed.broadcast_from_rank0`, for work longer than the process group's timeout. Collective.

    Args:
        ranks: All that wait.
        call: Runs on rank 0; it is given a function to call now and then, which keeps the waiting ranks alive.
        every_s: Seconds between heartbeats, at least.
    """
    last = time.monotonic()

    def heartbeat() -> None:
        nonlocal last
        if time.monotonic() - last >= every_s:
            last = time.monotonic()
            ranks.broadcast_json({"waiting": True})

    def on_main() -> Any:
        try:
            return call(heartbeat)
        finally:
            ranks.broadcast_json({"waiting": False})

    while not ranks.is_main and ranks.broadcast_json(None)["waiting"]:
        pass
    result: T = broadcast_from_rank0(ranks, on_main)
    return result
