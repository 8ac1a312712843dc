"""Where a run is: the state and cost of each stage, when it will end, and what went wrong.

In: a run folder and its stages. Out: a `RunStatus` of plain data. Only reads; the numbers are those of
`nopsd.run.journal`, the training log and the stages' manifests.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nopsd.config import Config
from nopsd.run import folder as names
from nopsd.run.expected import expected_seconds
from nopsd.run.folder import RunFolder
from nopsd.run.journal import is_alive, read_journal, read_progress
from nopsd.run.progress import duration
from nopsd.run.stage import Stages
from nopsd.train.artefacts import stop_note

DONE, RUNNING, INTERRUPTED, FAILED, KILLED = "done", "running", "interrupted", "failed", "killed"
BEGUN, NOT_YET, NOT_NEEDED = "begun", "not yet", "not needed"
QUICK = (names.SIGNALS, names.SELECT, names.REPORT)  # seconds, as a rule: left out of estimates
TIMES = "time/"  # of the training log: seconds of a step by part


@dataclass(frozen=True)
class StageStatus:
    """One stage. `seconds` over all attempts; `rank_seconds`: times its processes (GPUs, where each has one)."""

    name: str
    state: str
    seconds: float | None = None
    rank_seconds: float = 0.0
    attempts: int = 0
    done: int | None = None
    total: int | None = None
    left_s: float | None = None  # estimated
    parts: dict[str, float] = field(default_factory=dict)  # seconds of a training step's parts, summed


@dataclass(frozen=True)
class RunStatus:
    """A run. `left_s`: estimated; `not_estimated`: stages that it leaves out."""

    run_dir: str
    method: str
    state: str
    stages: list[StageStatus]
    seconds: float
    rank_hours: float
    left_s: float | None
    ends_at: float | None  # seconds since 1970
    not_estimated: list[str]
    error: str | None  # the last one, with its remedy
    error_stage: str | None
    note: str


def status_of(stages: Stages, config: Config, now: float | None = None) -> RunStatus:
    """The status of the run in `config.run_dir`."""
    now, run = time.time() if now is None else now, RunFolder(config.run_dir)
    events: dict[str, list[dict[str, Any]]] = {}
    for row in read_journal(run.root):
        events.setdefault(row["stage"], []).append(row)
    found = []
    for stage in stages:
        needed = stage.needed(config)
        found.append(_stage(run, stage.name, events.get(stage.name, []), needed, now))
    left, unknown = _left(found, expected_seconds(run, config, {s.name: s.seconds for s in found if s.state == DONE}))
    failed = _last_failure(found, events)
    state = _state(found)
    plan = run.training_plan()
    return RunStatus(
        run_dir=str(run.root),
        method=config.method,
        state=state,
        stages=found,
        seconds=sum(s.seconds or 0.0 for s in found),
        rank_hours=sum(s.rank_seconds for s in found) / 3600,
        left_s=left,
        ends_at=now + left if left is not None and state == RUNNING else None,
        not_estimated=unknown,
        error=failed[1] if failed else None,
        error_stage=failed[0] if failed else None,
        note=stop_note(run.export_record(), plan.get("steps", config.train.steps)),
    )


def _stage(run: RunFolder, name: str, events: Sequence[Mapping[str, Any]], needed: bool, now: float) -> StageStatus:
    progress = read_progress(run.root, name)
    attempts, seconds, rank_seconds, last = 0, 0.0, 0.0, None
    for event, after in zip(events, [*events[1:], None]):
        if event["event"] != "begin":
            last = event
            continue
        attempts, last = attempts + 1, event
        if after is not None and after["event"] == "end":
            spent = after["at"] - event["at"]
        else:  # running, or killed: as far as it was heard of
            heard = progress["at"] if progress and progress["at"] >= event["at"] else event["at"]
            spent = (now if after is None and is_alive(dict(event)) else heard) - event["at"]
        seconds, rank_seconds = seconds + spent, rank_seconds + spent * event["ranks"]
    state = _stage_state(run, name, last, needed)
    shown = progress if state not in (DONE, NOT_YET, NOT_NEEDED) else None
    return StageStatus(
        name=name,
        state=state,
        seconds=seconds if attempts else None,
        rank_seconds=rank_seconds,
        attempts=attempts,
        done=shown["done"] if shown else None,
        total=shown["total"] if shown else None,
        left_s=_pace(shown) if shown and state == RUNNING else None,
        parts=_training_parts(run) if name == names.TRAIN else {},
    )


def _stage_state(run: RunFolder, name: str, last: Mapping[str, Any] | None, needed: bool) -> str:
    if run.manifest(name) is not None:
        return DONE
    if last is None:
        return BEGUN if run.stage_dir(name).exists() else NOT_YET if needed else NOT_NEEDED
    if last["event"] == "end":  # sealed by another process, or taken away since
        return NOT_YET if last["outcome"] == DONE else str(last["outcome"])
    return KILLED if is_alive(dict(last)) is False else RUNNING


def _pace(progress: Mapping[str, Any]) -> float | None:
    made, spent = progress["done"] - progress["first"], progress["at"] - progress["since"]
    return spent / made * (progress["total"] - progress["done"]) if made > 0 else None


def _training_parts(run: RunFolder) -> dict[str, float]:
    parts: dict[str, float] = {}
    for row in run.training_metrics():
        for name, value in row.items():
            if name.startswith(TIMES) and value is not None:
                part = name.removeprefix(TIMES)
                parts[part] = parts.get(part, 0.0) + value
    return parts


def left_in_all(stages: Stages, config: Config) -> str:
    """What `nopsd run` says beside a stage's own progress; empty while nothing can be estimated."""
    found = status_of(stages, config)
    if found.left_s is None:
        return ""
    rest = f" without {', '.join(found.not_estimated)}" if found.not_estimated else ""
    return f"run: {duration(found.left_s)} left{rest}"


def _left(stages: Sequence[StageStatus], expected: Mapping[str, float]) -> tuple[float | None, list[str]]:
    """Seconds until the run ends, as far as they can be estimated, and the stages that can't be. What a stage is
    expected to take counts until it has a pace of its own."""
    left, unknown, estimated = 0.0, [], False
    for stage in stages:
        if stage.state in (DONE, NOT_NEEDED) or (stage.name in QUICK and stage.state != RUNNING):
            continue
        seconds = stage.left_s
        if seconds is None and stage.name in expected:
            spent = (stage.seconds or 0.0) if stage.state == RUNNING else 0.0
            seconds = max(0.0, expected[stage.name] - spent)
        if seconds is None:
            unknown.append(stage.name)
        else:
            left, estimated = left + seconds, True
    finished = all(stage.state in (DONE, NOT_NEEDED) for stage in stages)
    return (left if estimated or finished else None), unknown


def _last_failure(
    stages: Sequence[StageStatus], events: Mapping[str, Sequence[Mapping[str, Any]]]
) -> tuple[str, str] | None:
    """The latest error of a stage that isn't done; of one whose process is gone, that it is."""
    open_stages = [stage for stage in stages if stage.state in (FAILED, KILLED)]
    if not open_stages:
        return None
    stage = max(open_stages, key=lambda s: float(events[s.name][-1]["at"]))
    if stage.state == KILLED:
        return stage.name, "its process ended without a word (killed, out of memory, or a reboot)"
    return stage.name, str(events[stage.name][-1]["error"])


def _state(stages: Sequence[StageStatus]) -> str:
    states = [stage.state for stage in stages]
    for state in (RUNNING, FAILED, KILLED, INTERRUPTED):
        if state in states:
            return state
    if all(state in (DONE, NOT_NEEDED) for state in states):
        return DONE
    return BEGUN if any(state in (DONE, BEGUN) for state in states) else NOT_YET
