"""`nopsd doctor`: check everything a run depends on, before the run starts.

In: the configuration, with `dist.hostfile` or without. Out: a table (or JSON) and an exit code: 0 if the run can start.
Nothing is written except, briefly, a file in run_dir that proves that it is shared.
"""

from __future__ import annotations

from nopsd.cluster.doctor import table
from nopsd.cluster.doctor.diagnosis import diagnose
from nopsd.config import Config


def doctor(config: Config, as_json: bool = False) -> tuple[str, int]:
    """What to print, and the exit code."""
    found = diagnose(config)
    code = table.exit_code(found.findings)
    if as_json:
        return table.as_json(found.findings, found.needs, found.facts, found.links), code
    memory = table.memory_text(found.needs, found.ranks, found.server_bytes) if found.needs else ""
    parts = [found.prompts, memory, table.as_text(found.findings), table.summary(found.findings)]
    return "\n\n".join(part for part in parts if part), code
