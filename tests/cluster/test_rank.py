"""How a process finds its rank, and gives up a rendezvous that cannot succeed."""

import os
import subprocess
import sys

import pytest

from nopsd.cluster.rank import check_number, numbered
from nopsd.errors import UserError


@pytest.mark.parametrize(
    ("launcher", "given"),
    [
        ("openmpi", {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}),
        ("mpich", {"PMI_RANK": "3", "MPI_LOCALRANKID": "1", "PMI_SIZE": "4"}),
        ("slurm", {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4"}),
    ],
)
def test_ranks_know_their_number_from_mpi_and_slurm(launcher, given):
    """Without mpi4py. A user's own command in a batch script is no rank, though Slurm numbers it too."""
    assert numbered({**given, "NOPSD_LAUNCHER": launcher}) == {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}
    assert numbered(given) == {} and numbered({**given, "NOPSD_LAUNCHER": launcher, "RANK": "0"}) == {}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR is not: .*env -u RANK -u WORLD_SIZE"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "no rank of a group"),
        ({"RANK": "", "WORLD_SIZE": ""}, "no rank of a group"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "no rank of a group"),
    ],
)
def test_numbers_that_another_launcher_left_over_are_named(environment, message):
    """They ended the ranks after the rollouts, or made a command wait for ranks that nobody starts."""
    with pytest.raises(UserError, match=message):
        check_number(environment)


def test_numbers_of_a_whole_group_are_taken():
    check_number({"RANK": "0", "WORLD_SIZE": "1"})
    check_number({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a"})
    check_number({"RANK": "1", "WORLD_SIZE": "2", "NOPSD_LAUNCH": "launch.json"})


RENDEZVOUS = """
import sys, time
from nopsd.cluster import rank
rank.RENDEZVOUS_S = 0.0
with rank.rendezvous(0.5): time.sleep(float(sys.argv[1]))
time.sleep(1.0)
print("met")
"""


@pytest.mark.parametrize(("wait", "code"), [("0", 0), ("60", 1)])
def test_a_rendezvous_with_another_process_is_given_up(wait, code):
    """PyTorch's store has no timeout for a process that listens and never answers: on 29500, a left-over one."""
    environment = {**os.environ, "RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    words = [sys.executable, "-c", RENDEZVOUS, wait]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == code and (done.stdout == "met\n") == (code == 0), done.stderr
    assert ("rank 1 on" in done.stderr and "10.0.0.1:29500" in done.stderr) == (code == 1)
