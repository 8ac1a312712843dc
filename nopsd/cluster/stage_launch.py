"""Start a distributed stage: `deepspeed` on this host or those of a hostfile, output to the stage's log.

The ranks run in a session of their own under `nopsd.rollout.guardian`: whatever ends this command, SIGKILL
included, ends them, and nothing else. Progress comes back through a small file that rank 0 writes. SIGTERM while a
stage of FINISHES_STEP runs goes to the ranks as a file (`nopsd.engine.stopping`), to which rank 0 adds how far they
got; another one, or `patience_s` running out, ends them at once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from nopsd.cluster.commands import Plan
from nopsd.cluster.launching import Launching
from nopsd.cluster.verdict import Failure
from nopsd.engine.stopping import STOP_VARIABLE, Notice
from nopsd.errors import Stopped, UserError
from nopsd.files import read_json, write_json
from nopsd.rollout import guardian

PROGRESS_VARIABLE = "NOPSD_PROGRESS_FILE"
ERROR_PREFIX = "nopsd: error: "
RANK_TAG = "[rank "
FINISHES_STEP = ("train",)
POLL_S = 0.5


def under_launcher() -> bool:
    """True in a rank process that a launcher started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch_stage(
    stage: str,
    config_path: Path,
    plan: Plan,
    threads: int,
    log: Path,
    environment: Mapping[str, str],
    progress: Callable[..., None] | None,
    patience_s: float = 900.0,
    heartbeat_s: float = 20.0,
) -> None:
    """Run the stage on the plan's ranks to its end.

    Raises UserError if it fails, with the ranks' own words, RankLost if a rank was killed, hung or cut off, and Stopped
    if it ended early, or just in time, because SIGTERM asked for it.
    """
    progress_file = log.with_suffix(".progress.json")
    progress_file.unlink(missing_ok=True)
    stop = _StopByFile(log.with_suffix(".stop.json"), patience_s)
    env = {
        **os.environ,
        **environment,
        PROGRESS_VARIABLE: str(progress_file),
        STOP_VARIABLE: str(stop.file),
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    guard = [sys.executable, "-I", "-S", guardian.__file__, "--kill"]  # ranks have nothing to put away
    # Until the ranks' processes are gone: the launching's end is taken by them for ours.
    with open(log, "ab") as output, Launching(plan, config_path.parent / "launch", env, heartbeat_s) as launching:
        start = output.tell()
        if plan.several:
            print(f"\n      {launching.shown(stage, config_path)}", flush=True)
        process = subprocess.Popen(
            [*guard, *launching.command(stage, config_path)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=launching.environment,
            start_new_session=True,
        )
        relay = _Relay(progress_file, progress)
        before = signal.getsignal(signal.SIGTERM)
        try:
            if stage in FINISHES_STEP:
                stop.notice.listen()
            while process.poll() is None and not launching.lost():
                relay()
                stop.pass_on()
                time.sleep(POLL_S)
            relay()
        finally:
            signal.signal(signal.SIGTERM, before)
            assert process.stdin is not None
            process.stdin.close()  # the guardian ends the ranks, if there are any left, and then itself
            process.wait()
        failure = launching.failure()
    if failure is not None and (not failure.speaks or plan.several):
        words = f"stage {stage}: {launching.words(failure)}; its log is {log} and ends"
        raise RankLost(f"{words}\n{_tail(log, start)}", failure)
    if process.returncode or launching.unfinished:
        raise UserError(_failure(stage, log, start, process.returncode))
    stop.raise_if_stopped(stage)


class RankLost(UserError):
    """A rank of several was killed, hung or cut off, or said why it ended."""

    def __init__(self, message: str, failure: Failure) -> None:
        super().__init__(message)
        self.failure = failure


class _StopByFile:
    """SIGTERM to this process as a file that rank 0 looks for, and its answer."""

    def __init__(self, file: Path, patience_s: float) -> None:
        self.file, self.patience_s, self.notice = file, patience_s, Notice()
        self.file.unlink(missing_ok=True)

    def pass_on(self) -> None:
        """UserError if the ranks have been asked for too long."""
        if self.notice.came_at is None:
            return
        if not self.file.exists():
            write_json(self.file, {})
            print("nopsd: SIGTERM: the step is finished and saved, then this ends", file=sys.stderr, flush=True)
        if time.monotonic() - self.notice.came_at > self.patience_s:
            raise UserError(
                f"SIGTERM came, and the step was neither done nor saved {self.patience_s:g} s later "
                "(dist.timeout_s): the ranks were ended; the same command continues from the checkpoint before"
            )

    def raise_if_stopped(self, stage: str) -> None:
        told = read_json(self.file) if self.file.exists() else {}
        if told or self.notice.came_at is not None:
            raise Stopped(told.get("said", f"stage {stage} was just done when SIGTERM came"))


def tell_stopped(stopped: Stopped) -> None:
    """In rank 0 of a stage that `launch_stage` started: leave word that it ended early."""
    path = os.environ.get(STOP_VARIABLE)
    if path is not None and os.environ.get("RANK", "0") == "0":
        write_json(Path(path), {"said": str(stopped)})


class _Relay:
    """Hands on what rank 0 last reported, once."""

    def __init__(self, file: Path, progress: Callable[..., None] | None) -> None:
        self.file, self.progress = file, progress
        self.told = ""

    def __call__(self) -> None:
        if self.progress is None or not self.file.exists():
            return
        said = self.file.read_text()
        if said != self.told:
            self.told = said
            state = json.loads(said)
            self.progress(state["done"], state["total"], **state["info"])


def _failure(stage: str, log: Path, start: int, code: int) -> str:
    lines = _lines(log, start)
    errors = [line.split(ERROR_PREFIX, 1)[1] for line in lines if ERROR_PREFIX in line]
    if errors:  # rank 0's own words come untagged; the others' may only say that rank 0 failed
        return next((e for e in errors if not e.startswith(RANK_TAG)), errors[0])
    return f"stage {stage} failed with exit code {code}; its log is {log} and ends\n{_tail(log, start)}"


def _lines(log: Path, start: int) -> list[str]:
    with open(log, "rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace").splitlines()


def _tail(log: Path, start: int) -> str:
    return "\n".join(f"    {line}" for line in _lines(log, start)[-12:])


def rank_progress() -> Callable[..., None] | None:
    """In rank 0 of a stage that `launch_stage` started: a callable that reports to it; None elsewhere."""
    path = os.environ.get(PROGRESS_VARIABLE)
    if path is None or os.environ.get("RANK", "0") != "0":
        return None
    last = 0.0

    def report(done: int, total: int, **info: object) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < POLL_S / 2:
            return
        last = now
        write_json(Path(path), {"done": done, "total": total, "info": info})

    return report
