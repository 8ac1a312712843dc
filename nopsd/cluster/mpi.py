"""A rank's number from MPI itself (mpi4py), where an MPI started this process and no known variable gives it.

In: the environment, and the processes that mpirun, mpiexec or srun started together. Out: RANK, LOCAL_RANK, WORLD_SIZE,
and a rendezvous address where none is set. DeepSpeed's own discovery (`deepspeed.comm.mpi_discovery`) does the same,
but passes pickles between hosts, takes the first address of `hostname -I`, which the other hosts may not reach, and
leaves MPI initialised: a rank that then raises waits in MPI_Finalize for the others (seen with Open MPI). Here MPI is
finalised as soon as the numbers are known; no rank calls it again.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nopsd.errors import UserError
from nopsd.network import LOOPBACK, free_port

# How many there are, as left in the environment by Open MPI, MPICH and Intel MPI, MVAPICH2.
SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
LONGEST_NAME = 256  # bytes of a host name or an address


def started_by_mpi(environment: Mapping[str, str]) -> bool:
    """Whether an MPI started this process as one of several, as far as variables tell. A shell that `srun --pty` gave
    has a PMIX_RANK too, but is alone in its step."""
    by_pmix = ("SLURM_STEP_NUM_TASKS",) if "PMIX_RANK" in environment else ()
    return any(environment.get(name, "1") != "1" for name in (*SIZES, *by_pmix))


def discover(environment: Mapping[str, str], towards: Callable[[str], str]) -> dict[str, str]:
    """Variables of torch.distributed where MPI started the ranks and the environment lacks them. Collective over all.

    Args:
        environment: This process's.
        towards: Gives this host's address on the way to another host.

    Returns:
        RANK, LOCAL_RANK, WORLD_SIZE, and MASTER_ADDR, MASTER_PORT; {} for a process that is alone.

    Raises:
        UserError: mpi4py is missing, or can't load this MPI.
    """
    try:
        import mpi4py

        mpi4py.rc.finalize = False  # we do it
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: no MPI library is found
        raise UserError(
            f"an MPI started this process, but its number can't be asked for ({error}): pip install mpi4py, and have "
            "the MPI's libraries on LD_LIBRARY_PATH; or start by `nopsd launch --launcher openmpi|mpich`; if "
            f"{', '.join(name for name in SIZES if name in environment) or 'PMIX_RANK'} is left over, unset it"
        ) from error
    world = MPI.COMM_WORLD
    try:
        rank, size = world.Get_rank(), world.Get_size()
        if size == 1:
            return {}
        hosts = _gathered(world, socket.gethostname(), size)
        found = {"RANK": str(rank), "LOCAL_RANK": str(local_rank(hosts, rank)), "WORLD_SIZE": str(size)}
        rendezvous = _from_rank0(world, rendezvous_address(hosts, towards) if rank == 0 else "")
        address, port = rendezvous.rsplit(" ", 1)
        meet = {"MASTER_ADDR": address, "MASTER_PORT": port}
        return found | {name: value for name, value in meet.items() if name not in environment}
    finally:
        MPI.Finalize()


def local_rank(hosts: Sequence[str], rank: int) -> int:
    """How many of the ranks before are on the same host."""
    return sum(host == hosts[rank] for host in hosts[:rank])


def rendezvous_address(hosts: Sequence[str], towards: Callable[[str], str]) -> str:
    """Rank 0's address as the others reach it, and a free port there. Never raises: the others wait for it."""
    others = [host for host in hosts if host != hosts[0]]
    try:
        address = towards(others[0]) if others else LOOPBACK
    except UserError:  # names that only MPI's own network resolves
        address = hosts[0]
    return f"{address} {free_port('')}"


def _padded(text: str) -> bytearray:
    return bytearray(text.encode()[:LONGEST_NAME].ljust(LONGEST_NAME, b"\0"))


def _text(padded: bytes | bytearray) -> str:
    return bytes(padded).rstrip(b"\0").decode()


def _gathered(world: Any, text: str, size: int) -> list[str]:
    """Every rank's text; as bytes, for mpi4py's lower-case calls pickle."""
    received = bytearray(LONGEST_NAME * size)
    world.Allgather(_padded(text), received)
    return [_text(received[i * LONGEST_NAME : (i + 1) * LONGEST_NAME]) for i in range(size)]


def _from_rank0(world: Any, text: str) -> str:
    buffer = _padded(text)
    world.Bcast(buffer, root=0)
    return _text(buffer)
