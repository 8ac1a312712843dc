"""Findings and memory as a table to read, or as JSON. In: `Finding`s, `Needs`. Out: text."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from nopsd.cluster.doctor.memory import GIB, Needs
from nopsd.cluster.findings import ERROR, OK, WARNING, Finding
from nopsd.terminal import painted

WIDTH = 118
COLOURS = {OK: "green", WARNING: "yellow", ERROR: "red"}


def as_text(findings: Sequence[Finding]) -> str:
    """One row a finding, long messages wrapped under themselves."""
    hosts = max([len(f.host) for f in findings] + [4])
    rows = []
    for f in findings:
        start = f"{f.level:8} {f.check:9} {f.host:{hosts}}  "
        row = textwrap.fill(f.message, WIDTH, initial_indent=start, subsequent_indent=" " * len(start))
        rows.append(painted(f.level, COLOURS[f.level]) + row.removeprefix(f.level))
    return "\n".join(rows)


def memory_text(needs: Needs, ranks: int, server_bytes: int | None) -> str:
    """A rank's memory by part, what its host holds, and how many tokens the server's cache takes.

    Args:
        needs: Of a rank and of a server, in bytes.
        ranks: How many train.
        server_bytes: For keys and values; None: not known.
    """
    parts = [(name, size) for name, size in needs.device.items() if size]
    lines = [f"memory of each of {ranks} training ranks, estimated:"]
    lines += [f"  {name:18} {size / GIB:9.2f} GiB" for name, size in parts]
    lines.append(f"  {'total':18} {needs.total / GIB:9.2f} GiB")
    lines += [f"  {name:18} {size / GIB:9.2f} GiB of the host's" for name, size in needs.host.items()]
    lines.append(f"rollout server: weights {needs.server_weights / GIB:.2f} GiB a device")
    cache = f"keys and values {needs.kv_bytes_per_token / 2**10:.1f} KiB a token"
    if server_bytes is not None:
        room = max(0, server_bytes // needs.kv_bytes_per_token)
        cache += f", room for {room:,} tokens"
    lines.append(f"rollout server: {cache}")
    return "\n".join(lines)


def as_json(findings: Sequence[Finding], needs: Needs | None, facts: Any, links: Any) -> str:
    """Everything that was found."""
    memory = None if needs is None else {**asdict(needs), "total": needs.total}
    rows = [asdict(finding) for finding in findings]
    return json.dumps({"findings": rows, "memory": memory, "hosts": facts, "links": links}, indent=1)


def exit_code(findings: Sequence[Finding]) -> int:
    """0 if the run can start, though there may be warnings."""
    return int(any(finding.level == ERROR for finding in findings))


def summary(findings: Sequence[Finding]) -> str:
    """How many errors and warnings."""
    errors, warnings = (sum(f.level == level for f in findings) for level in (ERROR, WARNING))
    return f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
