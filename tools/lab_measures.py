"""What explains a training of the lab's study, from its session and its first step; and the commit of a result."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import lab_design
import numpy as np

from nopsd.neurons.store import load_neurons
from nopsd.run.session import Session
from nopsd.traces.schema import StepTrace


class FirstStep:
    """The trace: the first step's responses and each token's KL."""

    found: StepTrace | None = None

    def add(self, step: StepTrace) -> None:
        self.found = self.found or step

    def flush(self) -> None:
        """Nothing is written."""


def explained(session: Session, contexts: Any, right: Any, first: Any) -> dict[str, float]:
    """`lab_design.measured`, of neuron sets as they are stored; empty where nothing is shown."""
    if not any(len(nears) > 1 for nears in contexts.values()):
        return {}
    stored = load_neurons(session.run.stage_dir("neurons"))
    sets = {uid: frozenset(row[row >= 0].tolist()) for uid, row in zip(stored.uids, stored.ids)}
    return lab_design.measured(contexts, right, sets, first)


def wrong_kl(session: Session, first: StepTrace | None) -> float:
    """Mean KL a token of the first step's wrong responses less that of its right ones; NaN where it has one kind."""
    if first is None:
        return float("nan")
    kinds: dict[bool, list[float]] = {True: [], False: []}
    start = 0
    for rollout in first.rollouts:
        end = start + len(rollout.response_ids)
        kl = first.values["reverse_kl"][start:end]
        asked = [session.questions[rollout.uid]]
        share = session.judge.pool_correctness(asked, [rollout], session.think_open)
        kinds[share[rollout.uid] > 0.5] += kl[~np.isnan(kl)].tolist()
        start = end
    return float(np.mean(kinds[False]) - np.mean(kinds[True])) if all(kinds.values()) else float("nan")


def commit(file: Path, message: str) -> None:
    """The file alone; another process may be committing, so it is tried a few times."""
    for attempt in range(5):
        add = subprocess.run(["git", "-C", str(file.parent), "add", "-f", file.name], capture_output=True, text=True)
        done = subprocess.run(
            ["git", "-C", str(file.parent), "commit", "-q", "-m", message, "--", file.name],
            capture_output=True,
            text=True,
        )
        if add.returncode == 0 and done.returncode == 0:
            return
        time.sleep(1 + attempt)
    raise SystemExit(f"{file} can't be committed: {(add.stderr + done.stdout + done.stderr).strip()}")
