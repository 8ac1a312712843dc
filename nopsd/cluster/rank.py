"""Set-up and end of a rank: read what the launching command left, find the rank's number, start its watchdog.

In: the environment as DeepSpeed, Open MPI, MPICH or Slurm made it, or an MPI job (nopsd.cluster.mpi). Out: RANK,
LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, the variables of the launch file, the interface by which this host
reaches the others, and a `Watchdog`.
To be called before torch is imported (its threads read OMP_NUM_THREADS).
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil

from nopsd.cluster import mpi
from nopsd.cluster.launch_files import LAUNCHER_VARIABLE, VARIABLE, LaunchFile, read_launch_file
from nopsd.cluster.lifeline import end_with
from nopsd.cluster.logs import ERROR_PREFIX
from nopsd.cluster.rank_files import COMMAND_VARIABLE
from nopsd.cluster.watchdog import Watchdog, connect_to_coordinator, die_with_node_launcher
from nopsd.errors import UserError
from nopsd.gpus import set_allocator
from nopsd.keys import new_key
from nopsd.network import LOOPBACK, address_towards

# Where each launcher's processes find their number, the local one, and how many there are.
NUMBERS = {
    "openmpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"),
    "mpich": ("PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE"),
    "slurm": ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"),
}
ENDING_S = 5.0  # for an orderly end, once the command that launched us has gone
RENDEZVOUS_S = 30.0  # beyond PyTorch's own timeout, which comes first where it works

_watchdog: Watchdog | None = None
_launched = LaunchFile()


def setup(phase: str) -> None:
    """Become a rank, if a launcher started this process; nothing is done in a process that a user started.

    UserError if the launch file or the launching command can't be reached.
    """
    global _launched, _watchdog
    if VARIABLE in os.environ:
        _launched = read_launch_file(Path(os.environ[VARIABLE]))
        for name, value in _launched.environment.items():
            if name.startswith("NOPSD_"):
                os.environ[name] = value
            else:
                os.environ.setdefault(name, value)  # a host's own settings come first, of its interfaces for example
    os.environ.update(numbered(os.environ))
    if "RANK" not in os.environ and mpi.started_by_mpi(os.environ):
        os.environ.update(mpi.discover(os.environ, address_towards))
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return
    check_number(os.environ)
    die_with_node_launcher()
    set_allocator()
    if command := os.environ.get(COMMAND_VARIABLE):  # whatever else between it and us was killed too
        end_with(int(command), ENDING_S)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    master = os.environ.get("MASTER_ADDR", LOOPBACK)
    if world > 1:
        choose_interface(master)
    if _launched.port:
        _watchdog = connect_to_coordinator(_launched, rank, world, phase)


def numbered(environment: Mapping[str, str]) -> dict[str, str]:
    """RANK, LOCAL_RANK, WORLD_SIZE from an MPI's or Slurm's own variables. {} unless our command started the ranks by
    it: in a batch script, too, Slurm sets SLURM_PROCID."""
    names = NUMBERS.get(environment.get(LAUNCHER_VARIABLE, ""), ())
    if "RANK" in environment or not names or any(name not in environment for name in names):
        return {}
    return dict(zip(("RANK", "LOCAL_RANK", "WORLD_SIZE"), (environment[name] for name in names)))


def check_number(environment: Mapping[str, str]) -> None:
    """UserError for numbers that no launcher of a whole group gives: torchrun, Kubeflow or a shell left them over."""
    rank, world = environment["RANK"], environment["WORLD_SIZE"]
    fits = rank.isdecimal() and world.isdecimal() and int(rank) < int(world)
    if fits and (int(world) == 1 or VARIABLE in environment or "MASTER_ADDR" in environment):
        return
    why = "and MASTER_ADDR is not" if fits else "and are no rank of a group"
    raise UserError(
        f"RANK={rank} and WORLD_SIZE={world} are set in the environment, {why}: start ranks with `deepspeed` or `nopsd "
        "launch`; if they are left over from another launcher, `env -u RANK -u WORLD_SIZE nopsd ...`"
    )


def choose_interface(master: str) -> None:
    """Gloo would take the address that this host's name resolves to, which on many hosts is 127.0.1.1."""
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    own = address_towards(master)
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == own for address in addresses):
            os.environ["GLOO_SOCKET_IFNAME"] = name
            return


@contextmanager
def rendezvous(timeout_s: float) -> Iterator[None]:
    """Around joining the process group. If another process listens on rank 0's port, PyTorch waits for its answer
    without a timeout: this rank reports that and exits after `timeout_s` plus RENDEZVOUS_S."""
    joined = threading.Event()

    def give_up() -> None:
        if joined.wait(timeout_s + RENDEZVOUS_S):
            return
        address, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
        message = (
            f"rank {os.environ.get('RANK', '0')} on {socket.gethostname()} has not met the others at {address}:{port} "
            f"for {timeout_s + RENDEZVOUS_S:g} s: is rank 0 there, or another process "
            f"(`ss -ltnp` on {address} names it)?"
        )
        print(f"{ERROR_PREFIX}{message}", file=sys.stderr, flush=True)
        report(message, "user_error")
        os._exit(1)

    threading.Thread(target=give_up, name="rendezvous", daemon=True).start()
    try:
        yield
    finally:
        joined.set()


def needs_coordinator() -> bool:
    """Whether nobody coordinates this group of ranks: it was launched by hand. Equal on all ranks."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1 and _launched.port == 0


def run_coordinator(heartbeat_s: float, phase: str) -> dict[str, object]:
    """On rank 0 of ranks without a coordinator: its sentinel runs one. Returns what `join_coordinator` needs."""
    global _watchdog
    own = LaunchFile({}, address_towards(os.environ["MASTER_ADDR"]), 0, new_key(), heartbeat_s)
    _watchdog = connect_to_coordinator(own, 0, int(os.environ["WORLD_SIZE"]), phase)
    return {"launched": asdict(replace(own, port=_watchdog.port)), "phase": phase}


def join_coordinator(launched: dict[str, Any], phase: str) -> None:
    """On the other ranks: connect to the coordinator that rank 0 runs."""
    global _watchdog
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    _watchdog = connect_to_coordinator(LaunchFile(**launched), rank, world, phase)


def report(message: str, kind: str = "raised", of_rank: int | None = None) -> None:
    """Tell the launching command why this rank is about to end (`Watchdog.report`)."""
    if _watchdog is not None:
        _watchdog.report(message, kind, of_rank)


def disconnect() -> None:
    """Before an orderly end."""
    global _watchdog
    if _watchdog is not None:
        _watchdog.disconnect()
        _watchdog = None
