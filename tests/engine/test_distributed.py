"""Collectives on 1, 2 and 4 real gloo ranks, and what `init_distributed` refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nopsd.engine.distributed import _fill_environment
from nopsd.errors import UserError

HERE = Path(__file__).parent


@pytest.mark.engine
def test_collectives_and_sharded_rows_on_1_2_4_ranks(tmp_path):
    """If this fails, ranks see different wholes, or e_y = E[y] is another token's row."""
    (tmp_path / "job.json").write_text(json.dumps({}))
    command = [sys.executable, HERE / "worker_ranks.py", HERE / "worker_collectives.py", tmp_path / "job.json"]
    done = subprocess.run(
        [*map(str, command), "1", "2", "4"], timeout=300, capture_output=True, text=True, env=worker_environment()
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_half_a_launcher_environment_is_refused(monkeypatch):
    """A rank that thinks it is alone would overwrite the others' artefacts."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(UserError, match="start with `deepspeed`"):
        _fill_environment()


def worker_environment():
    import os

    root = HERE.parents[1]
    return {**os.environ, "PYTHONPATH": str(root), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
