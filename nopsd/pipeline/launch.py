"""Start a distributed stage: `deepspeed` with `dist.ranks` processes on this host, output to the stage's log.

The ranks run in a session of their own under `nopsd.rollout.guardian`: whatever ends this command, SIGKILL
included, ends them, and nothing else. Progress comes back through a small file that rank 0 writes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from nopsd.errors import UserError
from nopsd.rollout import guardian
from nopsd.rollout.server import free_port
from nopsd.runs import write_json

PROGRESS_VARIABLE = "NOPSD_PROGRESS_FILE"
ERROR_PREFIX = "nopsd: error: "
RANK_TAG = "[rank "
POLL_S = 0.5


def under_launcher() -> bool:
    """True in a rank process that a launcher started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def deepspeed_command(stage: str, config_path: Path, ranks: int) -> list[str]:
    """The command line, also fit to be typed by hand."""
    return [
        sys.executable,
        "-m",
        "deepspeed.launcher.runner",
        "--num_gpus",
        str(ranks),
        "--master_port",
        str(free_port("127.0.0.1", 0)),
        "--no_local_rank",
        "--module",
        "nopsd",
        stage,
        "--config",
        str(config_path),
    ]


def launch_stage(
    stage: str,
    config_path: Path,
    ranks: int,
    threads: int,
    log: Path,
    environment: Mapping[str, str],
    progress: Callable[..., None] | None,
) -> None:
    """Run the stage on `ranks` processes to its end. Raises UserError if it fails, with the ranks' own words."""
    progress_file = log.with_suffix(".progress.json")
    progress_file.unlink(missing_ok=True)
    env = {
        **os.environ,
        **environment,
        PROGRESS_VARIABLE: str(progress_file),
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    guard = [sys.executable, "-I", "-S", guardian.__file__]
    with open(log, "ab") as output:
        start = output.tell()
        process = subprocess.Popen(
            [*guard, *deepspeed_command(stage, config_path, ranks)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=env,
            start_new_session=True,
        )
        relay = _Relay(progress_file, progress)
        try:
            while process.poll() is None:
                relay()
                time.sleep(POLL_S)
            relay()
        finally:
            assert process.stdin is not None
            process.stdin.close()  # the guardian ends the ranks, if there are any left, and then itself
            process.wait()
    if process.returncode:
        raise UserError(_failure(stage, log, start, process.returncode))


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
    with open(log, "rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    errors = [line.split(ERROR_PREFIX, 1)[1] for line in lines if ERROR_PREFIX in line]
    if errors:  # rank 0's own words come untagged; the others' may only say that rank 0 failed
        return next((e for e in errors if not e.startswith(RANK_TAG)), errors[0])
    tail = "\n".join(f"    {line}" for line in lines[-12:])
    return f"stage {stage} failed with exit code {code}; its log is {log} and ends\n{tail}"


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
