"""The plans that come with nopsd, by name: `nopsd compare --plan paper`; and settings of one row of a plan."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nopsd.errors import ConfigError

PLANS = Path(__file__).parent / "plans"
_SCOPED = re.compile(r"([^:=]+):([a-z_][\w.]*)=(.*)", re.DOTALL)


def plan_names() -> list[str]:
    """Of the shipped plans."""
    return sorted(path.stem for path in PLANS.glob("*.yaml"))


def plan_path(name: str) -> str | Path:
    """The file that `--plan NAME` means: a shipped plan's, unless there is a file of this name."""
    return PLANS / f"{name}.yaml" if name in plan_names() and not Path(name).expanduser().is_file() else name


def split_settings(overrides: Sequence[str]) -> tuple[list[str], list[tuple[str, str, str]]]:
    """`key=value` of every run, and ROW:key=value as (row, key, value)."""
    plain, scoped = [], []
    for item in overrides:
        found = _SCOPED.fullmatch(item)
        if found:
            scoped.append((found[1], found[2], found[3]))
        else:
            plain.append(item)
    return plain, scoped


def with_row_settings(tree: Mapping[str, Any], scoped: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """The plan's tree with these settings in its source, target or method of that name. ConfigError if none has it."""
    made = dict(tree)
    for row, key, value in scoped:
        holders = [name for name in ("sources", "targets", "methods") if row in (made.get(name) or ())]
        if not holders:
            known = [str(n) for name in ("sources", "targets", "methods") for n in made.get(name) or ()]
            raise ConfigError(f"{row}:{key}={value}: {row} is no row of the plan; there are {', '.join(known)}")
        for holder in holders:
            rows = made[holder]
            rows = dict(rows) if isinstance(rows, Mapping) else {str(name): {} for name in rows}
            entry = dict(rows[row] or {})
            rows[row] = {**entry, "set": {**(entry.get("set") or {}), key: value}}
            made[holder] = rows
    return made
