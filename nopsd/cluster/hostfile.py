"""DeepSpeed's hostfile, lines of `NAME slots=N`; errors name file and line.

In: the file, and `rollout.hosts`. Out: the hosts that train, in order, with their slots: the first one's first slot
is rank 0. Pure, apart from reading the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nopsd.errors import ConfigError
from nopsd.network import why_no_host_name

LINE = re.compile(r"(\S+)\s+slots=([0-9]+)\s*(#.*)?")
MOST_SLOTS = 4096  # of one host


@dataclass(frozen=True)
class Host:
    """One host and how many ranks it takes (DeepSpeed calls them slots: one a GPU, or a CPU process)."""

    name: str
    slots: int


def read_hostfile(path: str | Path) -> list[Host]:
    """The hosts in order. ConfigError naming file, line and remedy; DeepSpeed itself only shows the whole file."""
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        reason = f"can't be read ({error.strerror})"
        raise ConfigError(f"dist.hostfile={path} {reason}: give a file of `HOST slots=N` lines") from error
    hosts: list[Host] = []
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}:{number}: {line!r} is no UTF-8: save the file as UTF-8") from error
        if text.strip() and not text.lstrip().startswith("#"):
            hosts.append(_host(text.strip(), f"{path}:{number}", [host.name for host in hosts]))
    if not hosts:
        raise ConfigError(f"dist.hostfile={path} names no host: write a line `HOST slots=N` for each")
    return hosts


def _host(text: str, place: str, known: Sequence[str]) -> Host:
    match = LINE.fullmatch(text)
    if match is None:
        raise ConfigError(f"{place}: {text!r} is no `HOST slots=N`, N being the ranks (GPUs) of the host")
    name, slots = match[1], int(match[2][:20])
    if why := why_no_host_name(name):
        raise ConfigError(f"{place}: {why}")
    if name in known:
        raise ConfigError(f"{place}: {name} is there twice: keep one line with all its slots")
    if not 0 < slots <= MOST_SLOTS:
        raise ConfigError(f"{place}: {name} has slots={match[2]:.20}: give it 1 to {MOST_SLOTS}, or remove the line")
    return Host(name, slots)


def training_hosts(hosts: Sequence[Host], rollout: Sequence[str]) -> list[Host]:
    """Those that don't serve rollouts. ConfigError if none is left."""
    left = [host for host in hosts if host.name not in set(rollout)]
    if not left:
        raise ConfigError("rollout.hosts takes every host of dist.hostfile: leave one, at least, to train on")
    return left


def world_size(hosts: Sequence[Host]) -> int:
    """How many ranks they take."""
    return sum(host.slots for host in hosts)


def ranks_of_each(hosts: Sequence[Host]) -> int:
    """How many ranks share what must not span hosts (hpZ): a host's, or where hosts differ what divides all of them."""
    return math.gcd(*(host.slots for host in hosts))


def hosts_by_rank(hosts: Sequence[Host]) -> tuple[str, ...]:
    """The host of each rank."""
    return tuple(host.name for host in hosts for _ in range(host.slots))


def hostfile_text(hosts: Sequence[Host]) -> str:
    """What `read_hostfile` reads."""
    return "".join(f"{host.name} slots={host.slots}\n" for host in hosts)
