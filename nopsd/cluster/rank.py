"""A rank's first and last acts: take over what the launching command left, find its number, start its watchdog.

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
from pathlib import Path

import psutil

from nopsd.cluster import mpi
from nopsd.cluster.launch_file import LAUNCHER_VARIABLE, VARIABLE, LaunchFile, read_launch_file
from nopsd.cluster.watchdog import Watchdog, die_with_node_launcher, hosting, watched
from nopsd.errors import UserError

# Where each launcher's processes find their number, the local one, and how many there are.
NUMBERS = {
    "openmpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"),
    "mpich": ("PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE"),
    "slurm": ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"),
}
MEETING_S = 30.0  # PyTorch's own time-out comes first, where it does
DISCARD_PORT = 9  # nothing is sent: only the route to an address is asked for

_watchdog: Watchdog | None = None
_launched = LaunchFile()


def enter(phase: str) -> None:
    """Become a rank, if a launcher started this process; a process that a user started is left alone.

    UserError if the launch file or the launching command can't be reached.
    """
    global _launched, _watchdog
    if VARIABLE in os.environ:
        _launched = read_launch_file(Path(os.environ[VARIABLE]))
        for name, value in _launched.environment.items():
            if name.startswith("NOPSD_"):
                os.environ[name] = value
            else:
                os.environ.setdefault(name, value)  # a host may know better, of its interfaces say
    os.environ.update(numbered(os.environ))
    if "RANK" not in os.environ and mpi.started_by_mpi(os.environ):
        os.environ.update(mpi.discover(os.environ, address_towards))
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return
    die_with_node_launcher()
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    master = os.environ.get("MASTER_ADDR", "127.0.0.1")
    if world > 1 and not master.startswith("127."):
        choose_interface(master)
    if _launched.port:
        file = _launched
        _watchdog = watched(rank, world, file.address, file.port, file.key, file.heartbeat_s, phase)


def numbered(environment: Mapping[str, str]) -> dict[str, str]:
    """RANK, LOCAL_RANK, WORLD_SIZE from an MPI's or Slurm's own variables. {} unless our command started the ranks by
    it: in a batch script, too, Slurm sets SLURM_PROCID."""
    names = NUMBERS.get(environment.get(LAUNCHER_VARIABLE, ""), ())
    if "RANK" in environment or not names or any(name not in environment for name in names):
        return {}
    return dict(zip(("RANK", "LOCAL_RANK", "WORLD_SIZE"), (environment[name] for name in names)))


def choose_interface(master: str) -> None:
    """Gloo would take the address that this host's name resolves to, which on many hosts is 127.0.1.1."""
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    own = address_towards(master)
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == own for address in addresses):
            os.environ["GLOO_SOCKET_IFNAME"] = name
            return


def address_towards(host: str) -> str:
    """The address that this host has on the way to another. UserError if the name doesn't resolve or no way leads
    there."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, DISCARD_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError as error:
        here = socket.gethostname()
        raise UserError(f"{here} can't reach {host} ({error.strerror}): check its name and routes") from error


@contextmanager
def meeting(timeout_s: float) -> Iterator[None]:
    """Around joining the process group. Whoever else listens on rank 0's port is met instead, and PyTorch waits for its
    answer without a time-out: this process says so and ends after `timeout_s`, and MEETING_S more."""
    met = threading.Event()

    def give_up() -> None:
        if met.wait(timeout_s + MEETING_S):
            return
        address, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
        words = (
            f"rank {os.environ.get('RANK', '0')} on {socket.gethostname()} has not met the others at {address}:{port} "
            f"for {timeout_s + MEETING_S:g} s: is rank 0 there, or another process (`ss -ltnp` on {address} names it)?"
        )
        print(f"nopsd: error: {words}", file=sys.stderr, flush=True)
        report(words, "said")
        os._exit(1)

    threading.Thread(target=give_up, name="meeting", daemon=True).start()
    try:
        yield
    finally:
        met.set()


def needs_host() -> bool:
    """Whether nobody coordinates this group of ranks: it was launched by hand. Equal on all ranks."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1 and _launched.port == 0


def host_coordinator(heartbeat_s: float, phase: str) -> dict[str, object]:
    """Rank 0 of ranks that nobody coordinates: its sentinel will. Returns what `join_coordinator` needs."""
    global _watchdog
    address = address_towards(os.environ["MASTER_ADDR"])
    _watchdog, key = hosting(int(os.environ["WORLD_SIZE"]), address, heartbeat_s, phase)
    return {"address": address, "port": _watchdog.port, "key": key, "heartbeat_s": heartbeat_s, "phase": phase}


def join_coordinator(address: str, port: int, key: str, heartbeat_s: float, phase: str) -> None:
    """The other ranks of them."""
    global _watchdog
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    _watchdog = watched(rank, world, address, port, key, heartbeat_s, phase)


def report(words: str, kind: str = "raised", of_rank: int | None = None) -> None:
    """Tell the launching command why this rank is about to end (`Watchdog.report`)."""
    if _watchdog is not None:
        _watchdog.report(words, kind, of_rank)


def leave() -> None:
    """Before an orderly end."""
    global _watchdog
    if _watchdog is not None:
        _watchdog.leave()
        _watchdog = None
