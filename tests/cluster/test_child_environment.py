"""What children are given: if these fail, left-over variables of another launcher end ranks, or secrets travel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nopsd.cluster.child_environment import child_environment, python_environment

LEFT_OVER = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "NODE_RANK", "MASTER_ADDR"),
    *("MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RUN_ID", "OMPI_COMM_WORLD_SIZE", "PMI_RANK"),
    *("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_UNIVERSE_SIZE", "PMIX_RANK", "PMIX_SERVER_URI21", "MPI_LOCALRANKID"),
)
KEPT = (
    "OMPI_MCA_btl",
    "OMPI_ALLOW_RUN_AS_ROOT",
    "PMIX_MCA_gds",
    "SLURM_JOB_ID",
    "PATH",
    "CUDA_VISIBLE_DEVICES",
    "SIZE",
)


@pytest.mark.parametrize("name", LEFT_OVER)
def test_what_another_launcher_left_over_goes_no_further(name: str) -> None:
    assert name not in child_environment({name: "1"})


@pytest.mark.parametrize("name", KEPT)
def test_a_users_settings_stay(name: str) -> None:
    assert child_environment({name: "1"})[name] == "1"


def test_a_users_module_does_not_stand_in_for_pythons_own(tmp_path: Path) -> None:
    """`random.py` in the working folder ended DeepSpeed's launcher, which is started by `python -m`."""
    (tmp_path / "random.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "mine.py").write_text("")
    environment = {**os.environ, **python_environment({"PYTHONPATH": ":"})}
    command = [sys.executable, "-c", "import random, nopsd, sys; print(nopsd.__file__, sys.flags.utf8_mode)"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    root = Path(__file__).resolve().parents[2]
    assert done.stdout.strip() == f"{root / 'nopsd' / '__init__.py'} 1", done.stderr
