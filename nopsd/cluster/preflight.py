"""Before ranks start on several hosts: is each reachable, with the same code, environment and run folder?

In: the hosts, the run folder. Out: each host's facts (`nopsd.cluster.host_facts`), from which the address of rank 0 and
a free port are taken; UserError naming each host that would break the run, before anything expensive. `nopsd doctor`
checks more.
"""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nopsd.cluster import findings
from nopsd.cluster.host_facts import Wanted, request
from nopsd.cluster.ssh import HostError, ask, ask_all, module_command
from nopsd.errors import UserError
from nopsd.network import is_loopback

ASK_S = 60.0  # a host's Python on a slow network disk takes its time
PORTS = range(20000, 30000)  # below the ephemeral ports, which other connections may hold at any time


class HostsError(UserError):
    """Hosts that can't take part, by name in `hosts`."""

    def __init__(self, hosts: Sequence[str], message: str) -> None:
        super().__init__(message)
        self.hosts = tuple(hosts)


def facts_of_all(hosts: Sequence[str], run_dir: Path) -> dict[str, dict[str, Any]]:
    """Every host's facts, checked. HostsError with a line for each that is missing or unlike the first."""
    ports = random.sample(PORTS, 8)
    with shared_mark(run_dir) as (mark, token):
        wanted = Wanted({"run_dir": str(run_dir.absolute())}, None, list(hosts), ports, str(mark))
        answers, failures = ask_all(hosts, lambda host: facts_of(host, wanted))
    if failures:
        raise HostsError([f.host for f in failures], "\n".join(str(failure) for failure in failures))
    found = [*findings.versions(answers), *findings.names(answers), *findings.shared_folder(answers, token)]
    errors = [finding for finding in found if finding.level == findings.ERROR]
    if errors:
        lines = [f"host {error.host}: {error.message}" for error in errors]
        raise HostsError(sorted({error.host for error in errors}), "\n".join(lines))
    for host in hosts:
        answers[host]["ports_free"] = [port for port in ports if port not in answers[host]["ports_in_use"]]
    return answers


@contextmanager
def shared_mark(run_dir: Path) -> Iterator[tuple[Path, str]]:
    """A file in the run folder, made if need be, and what is in it: a host that reads it there shares the folder."""
    run_dir.mkdir(parents=True, exist_ok=True)
    token, mark = secrets.token_hex(8), run_dir.absolute() / f".shared-{secrets.token_hex(4)}"
    mark.write_text(token)
    try:
        yield mark, token
    finally:
        mark.unlink(missing_ok=True)


def facts_of(host: str, wanted: Wanted) -> dict[str, Any]:
    """One host's facts, over ssh. HostError naming it if it gives none."""
    answer = ask(host, module_command("nopsd.cluster.host_facts"), request(wanted), ASK_S)
    try:
        return dict(json.loads(answer.splitlines()[-1]))  # a login shell there may greet first
    except (IndexError, ValueError) as error:
        raise HostError(host, f"host {host} answered {answer[:80]!r}, not JSON: silence its ~/.bashrc") from error


def master_address(facts: Mapping[str, Mapping[str, Any]]) -> str:
    """The first host's address as the others see it."""
    return address_of(facts, next(iter(facts)))


def address_of(facts: Mapping[str, Mapping[str, Any]], host: str) -> str:
    """A host's address as the others see it, IPv4 before IPv6; UserError if it has but loopback."""
    others = [own for name, own in facts.items() if name != host]
    seen = [address for own in [*others, facts[host]] for address in own["names"][host]]
    usable = [str(address) for address in seen if not is_loopback(address)]
    if not usable:
        raise UserError(f"no host has an address for {host} but loopback: set dist.master_addr, or correct /etc/hosts")
    return min(usable, key=lambda a: (":" in a, usable.index(a)))


def master_port(facts: Mapping[str, Mapping[str, Any]]) -> int:
    """A port that nothing listens on at the first host.

    Raises:
        UserError: All that were looked at are in use.
    """
    free = next(iter(facts.values()))["ports_free"]
    if not free:
        raise UserError(f"host {next(iter(facts))}: none of 8 random ports is free; what listens on all of them?")
    return int(free[0])
