"""`nopsd` as a user types it, and the settings of a whole run that takes seconds."""

import os
import subprocess
import sys

SMALL = (
    "data.pool_limit=30",
    "eval.limit=6",
    "eval.n=4",
    "eval.bootstrap=50",
    "train.steps=3",
    "train.batch=4",
    "train.micro=2",
    "train.checkpoint_every=2",
    "select.fraction=0.3",
    "context.m=2",
    "server.kv_cache_mib=128",
)


def nopsd(*arguments: str, timeout: float = 900.0) -> subprocess.CompletedProcess[str]:
    """Its exit code, stdout and stderr."""
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "nopsd", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=timeout, check=False)
