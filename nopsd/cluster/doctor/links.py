"""Bandwidth and latency between each pair of hosts, measured by `nopsd.cluster.doctor.link` on both ends at once.

In: the hosts with their addresses, and how to start a command on one. Out: numbers by pair, and findings on links that
fail or are far slower than the others.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nopsd.cluster.doctor.link import TIMEOUT_S
from nopsd.cluster.findings import ERROR, WARNING, Finding, all_ok

Start = Callable[[str], "subprocess.Popen[str]"]  # on this host: the link's end, with pipes for input and output
Links = dict[str, dict[str, float]]
SLOW = 0.25  # of the median bandwidth
STARTUP_S = 60.0  # Python and torch, from a network disk
ALL_PAIRS = 8  # hosts; of more, each with the first alone


def measure_pairs(addresses: Mapping[str, str], start: Start) -> tuple[Links, list[Finding]]:
    """Pair by pair, one at a time: two at once would share a wire."""
    links, failed = {}, []
    for a, b in pairs(list(addresses)):
        try:
            links[f"{a} - {b}"] = one_pair(a, b, addresses, start)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            ends = f"{a} ({addresses[a]}) and {b} ({addresses[b]})"
            message = f"no connection between {ends}: {reason}; check the firewall"
            failed.append(Finding("links", f"{a}, {b}", ERROR, message))
    return links, failed or compare_links(links)


def pairs(hosts: Sequence[str]) -> list[tuple[str, str]]:
    """Each pair; with more than ALL_PAIRS hosts, each with the first alone."""
    if len(hosts) <= ALL_PAIRS:
        return list(itertools.combinations(hosts, 2))
    return [(hosts[0], other) for other in hosts[1:]]


def one_pair(a: str, b: str, addresses: Mapping[str, str], start: Start) -> dict[str, float]:
    """Start both ends and read the opener's measurement.

    Args:
        a: The host that opens the connection.
        b: The host that joins it.
        addresses: By host.
        start: Starts an end on a host.

    Raises:
        ValueError: An end failed; its last line.
    """
    opener, joiner = start(a), start(b)
    try:
        port = _answer(opener, {"address": addresses[a]})["port"]
        _send(joiner, {"address": addresses[b], "peer": addresses[a], "port": port})
        out, err = opener.communicate(timeout=STARTUP_S + TIMEOUT_S)
        if opener.returncode or not out.strip():
            raise ValueError((err.strip().splitlines() or ["it ended without a message"])[-1])
        found: dict[str, float] = json.loads(out.splitlines()[-1])
        joiner.wait(TIMEOUT_S)
        return found
    finally:
        for process in (opener, joiner):
            process.kill()
            process.communicate()


def _send(process: subprocess.Popen[str], message: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def _answer(process: subprocess.Popen[str], message: dict[str, Any]) -> dict[str, Any]:
    """The end's answer to a message."""
    _send(process, message)
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    if not line:
        raise ValueError((process.stderr.read().strip().splitlines() or ["it ended without a message"])[-1])
    return dict(json.loads(line))


def compare_links(links: Links) -> list[Finding]:
    """A warning for each link that is far slower than the others."""
    if not links:
        return []
    middle = statistics.median(link["gib_per_s"] for link in links.values())
    found = [
        Finding("links", pair, WARNING, f"{link['gib_per_s']:.2f} GiB/s, the others {middle:.2f}: check cable and MTU")
        for pair, link in links.items()
        if link["gib_per_s"] < SLOW * middle
    ]
    slowest = min(links.values(), key=lambda link: link["gib_per_s"])
    message = f"at least {slowest['gib_per_s']:.2f} GiB/s, {slowest['latency_ms']:.2f} ms ({len(links)} pairs, gloo)"
    return all_ok("links", found, message)
