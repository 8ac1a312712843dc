"""A rank's number from MPI itself: if this fails, `mpirun -n 2 nopsd train …` is two runs apart from each other."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nopsd.cluster.mpi import local_rank, rendezvous_address, started_by_mpi
from nopsd.errors import UserError
from tests.programs import require_program

ROOT = Path(__file__).resolve().parents[2]
RANK = """
import json, os, sys
from nopsd.cluster import rank
rank.setup("train")
result = {k: os.environ[k] for k in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
print(json.dumps(result | {"torch": "torch" in sys.modules}), flush=True)
if result["RANK"] == sys.argv[1]: raise ValueError("a bug")
"""


@pytest.mark.parametrize(
    ("environment", "started"),
    [
        ({}, False),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"PMI_SIZE": "2"}, True),
        ({"SLURM_STEP_NUM_TASKS": "8"}, False),  # srun without MPI: its variables number the ranks
        ({"SLURM_STEP_NUM_TASKS": "8", "PMIX_RANK": "0"}, True),
        ({"SLURM_STEP_NUM_TASKS": "1", "PMIX_RANK": "0"}, False),  # a shell by `srun --pty`
    ],
)
def test_only_one_of_several_asks(environment, started):
    """In a shell on a cluster, a plain command must not wait for ranks that nobody started."""
    assert started_by_mpi(environment) == started


def test_local_ranks_and_therendezvous_address():
    hosts = ["a", "b", "a", "b", "b"]
    assert [local_rank(hosts, rank) for rank in range(5)] == [0, 0, 1, 1, 2]
    assert rendezvous_address(hosts, lambda host: f"towards-{host}").startswith("towards-b ")
    assert rendezvous_address(["a", "a"], lambda host: "?").startswith("127.0.0.1 ")

    def unknown(host):
        raise UserError("no such name")

    assert rendezvous_address(hosts, unknown).startswith("a "), (
        "an error on rank 0 alone would leave the others waiting"
    )


@pytest.mark.engine
def test_two_ranks_of_mpirun_find_each_other():
    """Before torch is loaded, and MPI's end is behind them: a rank that raises later must not hang in MPI_Finalize."""
    mpirun = require_program("mpirun", "openmpi-bin")
    words = [mpirun, "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2"]
    done = subprocess.run(
        [*words, sys.executable, "-c", RANK, "1"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    lines = re.findall(r"\{.*?\}", done.stdout)  # mpirun may put both on one line
    result = sorted((json.loads(line) for line in lines), key=lambda one: one["RANK"])
    assert [(t["RANK"], t["LOCAL_RANK"], t["WORLD_SIZE"], t["torch"]) for t in result] == [
        ("0", "0", "2", False),
        ("1", "1", "2", False),
    ], done.stderr
    assert len({(t["MASTER_ADDR"], t["MASTER_PORT"]) for t in result}) == 1 and int(result[0]["MASTER_PORT"]) > 0
    assert done.returncode != 0 and "a bug" in done.stderr
