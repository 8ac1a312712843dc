"""The preset that `nopsd init` writes: YAML with a comment behind each value. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

Settings = Mapping[str, tuple[Any, str]]  # dotted key -> value, reason


def preset_text(title: Sequence[str], base: tuple[str, str], settings: Settings) -> str:
    """A commented preset.

    Args:
        title: Lines at its head.
        base: The preset that it starts from, and the reason.
        settings: Values and reasons by key; they are written by section, in the order given.
    """
    lines = [*(f"# {line}".rstrip() for line in title), _line("base", *base)]
    sections: dict[str, list[str]] = {}
    for key, (value, reason) in settings.items():
        section, _, name = key.partition(".")
        if not name:
            lines.append(_line(section, value, reason))
        else:
            sections.setdefault(section, []).append("  " + _line(name, value, reason))
    for section, inside in sections.items():
        lines += [f"{section}:", *inside]
    return "\n".join(lines) + "\n"


def _line(name: str, value: Any, reason: str) -> str:
    return f"{name}: {scalar(value)}" + (f"  # {' '.join(reason.split())}" if reason else "")


def scalar(value: Any) -> str:
    """A value on one line of YAML, quoted where it must be."""
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1 << 20)
    return text.removesuffix("\n").removesuffix("...").strip()
