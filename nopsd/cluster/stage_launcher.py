"""Start the ranks of a distributed stage, on this host or those of a hostfile; their output goes to the stage's log.

The ranks run in a session of their own under `nopsd.cluster.guardian`: when this command ends, in whatever way (SIGKILL
included), they are ended, and nothing else. Progress comes back by a small file that rank 0 writes. SIGTERM
while a stage that finishes its step runs is passed to the ranks as a file (`nopsd.cluster.rank_files`), to which rank
0 adds how far they got; a second SIGTERM, or `dist.timeout_s` running out, ends them at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nopsd.cluster import guardian
from nopsd.cluster.child_environment import child_environment
from nopsd.cluster.deepspeed_command import Plan
from nopsd.cluster.launch_context import LaunchContext
from nopsd.cluster.logs import ended_by_signal, rank_error, tail_of
from nopsd.cluster.rank_files import COMMAND_VARIABLE, PROGRESS_VARIABLE, Progress, ProgressFile, StopFile
from nopsd.cluster.root_cause import Failure, describe
from nopsd.config import DistConfig
from nopsd.engine.stopping import STOP_VARIABLE
from nopsd.errors import UserError

POLL_S = 0.5


class RankLostError(UserError):
    """A rank of several was killed, hung or cut off, or reported why it ended."""

    def __init__(self, message: str, failure: Failure) -> None:
        super().__init__(message)
        self.failure = failure


def under_launcher() -> bool:
    """True in a rank process that a launcher started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch_stage(
    stage: str,
    config_path: Path,
    plan: Plan,
    dist: DistConfig,
    log: Path,
    environment: Mapping[str, str],
    progress: Progress | None,
    finishes_step: bool = False,
) -> None:
    """Run the stage on the plan's ranks to its end.

    Args:
        stage: Its name.
        config_path: The run folder's config.yaml.
        plan: Where the ranks run.
        dist: The launcher's settings.
        log: The ranks' output goes to its end.
        environment: What the ranks need beyond this process's own.
        progress: Called with how far they are; None: no report.
        finishes_step: SIGTERM asks them to finish and save what they are at.

    Raises:
        UserError: It failed; the ranks' own message.
        RankLostError: A rank was killed, hung or cut off.
        Stopped: It ended early, or just in time, because of SIGTERM.
    """
    progress_file = ProgressFile(log.with_suffix(".progress.json"), progress)
    stop = StopFile(log.with_suffix(".stop.json"), dist.timeout_s)
    env = {**launcher_environment(dist), **environment}
    env |= {PROGRESS_VARIABLE: str(progress_file.file), STOP_VARIABLE: str(stop.file)}
    if not plan.several:
        env[COMMAND_VARIABLE] = str(os.getpid())
    # Left only when the ranks' processes are gone: they take the end of the context for the end of this command.
    with (
        open(log, "ab") as output,
        LaunchContext(plan, config_path.parent / "launch", env, dist.heartbeat_s) as context,
    ):
        start = output.tell()
        if plan.several:
            print(f"\n      {context.typed(stage, config_path)}", flush=True)
        process = subprocess.Popen(
            guardian.guarded(context.command(stage, config_path), kill=True),  # ranks have nothing to clean up
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=context.environment,
            start_new_session=True,
        )
        _wait(process, context, progress_file, stop, listen=finishes_step)
        failure, missing = context.failure(), context.missing()
    if failure is not None and (not failure.has_message or plan.several):
        message = f"stage {stage}: {describe(failure, dist.heartbeat_s)}; its log is {log} and ends"
        raise RankLostError(f"{message}\n{tail_of(log, start)}", failure)
    if process.returncode or context.unfinished:
        error = f"stage {stage} {_end(process.returncode, missing, log, start)}; its log is {log} and ends\n"
        raise UserError(rank_error(log, start) or error + tail_of(log, start))
    stop.raise_if_stopped(stage)


def _end(code: int, missing: Sequence[str], log: Path, start: int) -> str:
    """How ranks ended that reported no error themselves; those that never reported were still importing."""
    by = ended_by_signal(log, start)
    if by is None and not missing:
        return f"failed with exit code {code}"
    who = ", ".join(missing[:4]) or "a rank"
    while_starting = ", before it could report (while it imported packages)" if missing else ""
    how = f"was ended by {by}" if by else f"ended with exit code {code}"
    memory = "; if the kernel killed it for lack of memory, `dmesg` there shows it" if by == "SIGKILL" else ""
    return f"failed: {who} {how}{while_starting}{memory}"


def launcher_environment(dist: DistConfig) -> dict[str, str]:
    """What DeepSpeed's launcher and its ranks are given of this process's environment: no secrets but those that they
    need, and nothing that DeepSpeed would put on command lines unasked (it exports MLflow's passwords so)."""
    given = {name: value for name, value in child_environment(os.environ).items() if not name.startswith("MLFLOW_")}
    return {
        **given,
        "OMP_NUM_THREADS": str(dist.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore::FutureWarning,ignore::DeprecationWarning"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def _wait(
    process: subprocess.Popen[bytes], context: LaunchContext, progress: ProgressFile, stop: StopFile, listen: bool
) -> None:
    """Until the ranks have ended, or one is lost; no process of theirs is left. `listen`: SIGTERM asks them to stop."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        if listen:
            stop.notice.listen()
        while process.poll() is None and not context.lost():
            progress.relay()
            stop.relay()
            time.sleep(POLL_S)
        progress.relay()
    finally:
        signal.signal(signal.SIGTERM, before)
        assert process.stdin is not None
        process.stdin.close()  # the guardian ends the ranks, if there are any left, and then itself
        process.wait()
