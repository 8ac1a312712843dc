"""Ranks compare their hosts' code, packages and configuration once they can communicate, for launchers without ssh."""

from __future__ import annotations

import platform
import socket

from nopsd.cluster.host_facts import PACKAGES, SOURCE, source_hash, version_of
from nopsd.config import Config, to_yaml
from nopsd.engine.distributed import Ranks
from nopsd.errors import UserError
from nopsd.files import sha256_json


def own_environment(config: Config) -> dict[str, str]:
    """What must be the same on every rank."""
    versions = {name: version for name in PACKAGES if (version := version_of(name))}
    python = platform.python_version().rsplit(".", 1)[0]
    return {**versions, "Python": python, "nopsd's source": source_hash(SOURCE), "config": sha256_json(to_yaml(config))}


def check_agreement(ranks: Ranks, config: Config) -> None:
    """UserError on every rank, naming the host and what differs from rank 0's. Collective."""
    gathered = ranks.all_gather_json([socket.gethostname(), own_environment(config)])
    first_host, first = gathered[0]
    for host, own in gathered[1:]:
        for name in sorted({*first, *own}):
            if first.get(name) != own.get(name):
                raise UserError(
                    f"host {host} has {name} {own.get(name, 'not at all')!s:.16}, {first_host} has "
                    f"{first.get(name, 'none')!s:.16}: "
                    "install the same there (launcher/setup_env.sh), from the same commit"
                )
