"""What the hosts' facts mean for a launch: findings that name a check, a host, and the remedy. Pure.

In: facts by host (`nopsd.cluster.host_facts`), the first host being the head. Out: `Finding`s. Here are the checks that
every launch makes; `nopsd doctor` makes more (nopsd.cluster.doctor.checks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nopsd.network import is_loopback

OK, WARNING, ERROR = "ok", "warning", "error"
Facts = Mapping[str, Mapping[str, Any]]  # host -> its facts


@dataclass(frozen=True)
class Finding:
    """One row of the table."""

    check: str
    host: str  # "all" where it holds for every one
    level: str
    message: str


def all_ok(check: str, findings: list[Finding], message: str) -> list[Finding]:
    """The findings, or one row that says there are none."""
    return findings or [Finding(check, "all", OK, message)]


def versions(facts: Facts) -> list[Finding]:
    """Python, packages and our own code must be the same everywhere as on the head."""
    head, *_ = facts.values()
    found = []
    for host, own in facts.items():
        if own["python"].rsplit(".", 1)[0] != head["python"].rsplit(".", 1)[0]:
            found.append(_differs(host, "Python", own["python"], head["python"]))
        for name in sorted({*head["packages"], *own["packages"]}):
            ours, theirs = head["packages"].get(name), own["packages"].get(name)
            if ours != theirs:
                found.append(_differs(host, name, theirs or "not installed", ours or "none"))
        if own["source"] != head["source"]:
            found.append(_differs(host, "nopsd's source", own["source"], head["source"]))
    return all_ok("versions", found, f"Python {head['python']}, torch {head['packages'].get('torch')}")


def _differs(host: str, what: str, theirs: str, ours: str) -> Finding:
    remedy = "install the same environment there (launcher/setup_env.sh)"
    return Finding("versions", host, ERROR, f"{what} is {theirs}, on the head {ours}: {remedy}")


def names(facts: Facts) -> list[Finding]:
    """Every host must resolve every other, and not to a loopback address."""
    found = []
    for host, own in facts.items():
        for name, addresses in own["names"].items():
            loopback = bool(addresses) and all(map(is_loopback, addresses))
            if not addresses:
                found.append(Finding("names", host, ERROR, f"can't resolve {name}: add it to DNS or /etc/hosts there"))
            elif name != host and loopback:
                message = f"resolves {name} to itself ({addresses[0]}): correct /etc/hosts there"
                found.append(Finding("names", host, ERROR, message))
            elif name == host and loopback and len(facts) > 1:
                remedy = "correct /etc/hosts there, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
                found.append(Finding("names", host, WARNING, f"its own name means {addresses[0]}: {remedy}"))
    return all_ok("names", found, "every host resolves every other")


def shared_folder(facts: Facts, token: str) -> list[Finding]:
    """run_dir must be one and the same folder everywhere: a file written on the head is read on each host."""
    found = []
    for host, own in facts.items():
        folder = own["folders"]["run_dir"]
        if own["token"] != token:
            message = f"run_dir={folder['path']} is not the head's folder: put it on a disk that all hosts share"
            found.append(Finding("run_dir", host, ERROR, message))
        elif not folder["writable"]:
            found.append(Finding("run_dir", host, ERROR, f"{folder['path']} can't be written there: check its owner"))
    return all_ok("run_dir", found, "one folder, seen by all")
