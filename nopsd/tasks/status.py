"""`nopsd status`: a run's status as text or JSON."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from nopsd.config import Config
from nopsd.run.progress import duration
from nopsd.run.rounds import rounds_of
from nopsd.run.status import DONE, FAILED, INTERRUPTED, KILLED, RUNNING, RunStatus, StageStatus, status_of
from nopsd.stages.registry import STAGES


def status(config: Config, as_json: bool = False) -> str:
    """What to print; of several rounds one after the other, as JSON under "rounds"."""
    found = [status_of(STAGES, one) for one in rounds_of(config)]
    if as_json:
        plain = [asdict(one) for one in found]
        return json.dumps(plain[0] if config.rounds == 1 else {"rounds": plain}, indent=1)
    return "\n\n".join(text(one) for one in found)


def text(found: RunStatus) -> str:
    """A line a stage, then cost, end and what went wrong."""
    lines = [f"{found.run_dir}: {found.state}, method {found.method}", *(_line(stage) for stage in found.stages)]
    if found.seconds:
        lines.append(f"cost:       {duration(found.seconds)}, {found.rank_hours:.2f} rank-hours (GPU-hours on GPUs)")
    if found.state != DONE:
        lines.append(_end(found))
    if found.error is not None:
        lines.append(f"went wrong: {found.error_stage}: {found.error}")
    if found.state in (FAILED, KILLED, INTERRUPTED):
        lines.append(f"to go on:  nopsd run --config {found.run_dir}/config.yaml")
        lines.append(f"logs:       {found.run_dir}/logs")
    if found.note:
        lines.append(f"WARNING: {found.note}")
    return "\n".join(lines)


def _line(stage: StageStatus) -> str:
    seconds = "" if stage.seconds is None else duration(stage.seconds)
    parts = [f"{name} {duration(spent)}" for name, spent in stage.parts.items()]
    if stage.done is not None and stage.total:
        parts.insert(0, f"{stage.done} of {stage.total} ({100 * stage.done / stage.total:.0f} %)")
    if stage.left_s is not None:
        parts.insert(1, f"{duration(stage.left_s)} left")
    if stage.attempts > 1:
        parts.append(f"{stage.attempts} attempts")
    return f"  {stage.name:14} {stage.state:12} {seconds:>12}   {', '.join(parts)}".rstrip()


def _end(found: RunStatus) -> str:
    rest = f"; not estimated: {', '.join(found.not_estimated)}" if found.not_estimated else ""
    if found.left_s is None:
        return f"end:        can't be estimated yet{rest}"
    at = ""
    if found.state == RUNNING and found.ends_at is not None:
        at = f", about {time.strftime('%Y-%m-%d %H:%M', time.localtime(found.ends_at))}"
    return f"end:        {duration(found.left_s)} of work left{at}{rest}"
