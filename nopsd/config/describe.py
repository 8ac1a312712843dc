"""Keys in words: what `nopsd config --explain` and docs/settings.md show, and what differs between configurations."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Sequence
from typing import Any

from nopsd.config.loading import to_plain
from nopsd.config.schema import Config, Key, all_keys
from nopsd.errors import ConfigError
from nopsd.files import flatten

WIDTH = 100


def keys_like(name: str) -> list[Key]:
    """The key of this name, or the keys of this section. ConfigError, with the nearest name, if there is neither."""
    keys = all_keys()
    found = [key for key in keys if key.name == name] or [key for key in keys if key.name.startswith(f"{name}.")]
    if not found:
        names = [key.name for key in keys]
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        near = [known for known in names if known.split(".")[-1] == name.split(".")[-1]][:3] or near
        raise ConfigError(f"{name} is no key; {'near it: ' + ', '.join(near) if near else '`nopsd config` lists all'}")
    return found


def allowed(key: Key) -> str:
    """Choices and bounds in words; empty where any value of the type is allowed."""
    choices = ", ".join("null" if choice is None else choice for choice in key.choices)
    own = "module:attribute of your own (docs/extending.md)" if key.entry_points else ""
    return " or ".join(part for part in (choices, own, key.bounds) if part)


def value_in(config: Config, key: Key) -> Any:
    """The key's value in a configuration."""
    return flatten(to_plain(config))[key.name]


def explained(keys: Sequence[Key], config: Config) -> str:
    """One key in full, or a line for each of several. `config`: whose values are shown."""
    if len(keys) > 1:
        wide = max(len(key.name) for key in keys)
        return "\n".join(f"{key.name:{wide}}  {plain(value_in(config, key))}  {key.help}" for key in keys)
    (key,) = keys
    rows = {
        "type": key.type,
        "default": plain(key.default),
        "here": plain(value_in(config, key)),
        "allowed": allowed(key),
        "source": key.source,
        "changes": "how a run is computed, not its results: may be changed when a run continues"
        if key.runtime_only
        else "",
    }
    if rows["here"] == rows["default"]:
        del rows["here"]
    lines = [key.name, *textwrap.wrap(key.help, WIDTH - 2, initial_indent="  ", subsequent_indent="  ")]
    for title, text in rows.items():
        if text:
            lines += textwrap.wrap(text, WIDTH, initial_indent=f"  {title:9}", subsequent_indent=" " * 11)
    return "\n".join(lines)


def as_record(key: Key, config: Config) -> dict[str, Any]:
    """The key as plain values, for JSON."""
    return {
        "type": key.type,
        "default": key.default,
        "value": value_in(config, key),
        "choices": list(key.choices),
        "bounds": key.bounds,
        "source": key.source,
        "help": key.help,
        "runtime_only": key.runtime_only,
    }


def changes(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """The keys whose values differ, with both values."""
    old, new = flatten(to_plain(before)), flatten(to_plain(after))
    return {name: (plain(old[name]), plain(new[name])) for name in old if old[name] != new[name]}


def plain(value: Any) -> str:
    """A value as it is typed after `key=`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(plain(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
