"""Work of rank 0 for all ranks: its result, its failure, and its time beyond the group's timeout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.engine
def test_slow_work_of_rank_0_trips_no_collective(free_port):
    """Rollouts may take longer than dist.timeout_s; if this fails, the other ranks give up waiting for them."""
    command = [sys.executable, str(HERE / "worker_slow_rank0.py"), str(free_port)]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True, env=worker_environment())
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def worker_environment():
    root = HERE.parents[1]
    return {**os.environ, "PYTHONPATH": str(root), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
