"""Names of a config key to code: ours, a user's `module:attribute`, or a package's entry point (docs/extending.md).

In: the value of a config key. Out: the object, or a ConfigError that names key, module and remedy. `module` is looked
for where Python looks and then in the folder the command is started in. A package offers its own under a name by

    [project.entry-points."nopsd.selectors"]
    short_and_sure = "mypackage.selectors:short_and_sure"
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from typing import Any, TypeVar

from nopsd.errors import ConfigError

T = TypeVar("T")


def resolve(key: str, name: str, ours: Mapping[str, T], group: str, kind: type[T]) -> T:
    """The object that `key=name` means: one of `ours` first, then an import path, then an entry point of `group`."""
    if name in ours:
        return ours[name]
    path = import_path(name, group)
    if path is None:
        known = sorted([*ours, *_offered(group).names])
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? " if near else f"there are {', '.join(known)}. " if known else ""
        raise ConfigError(f"{key}={name}: {hint}Your own is named by its import path, module:attribute")
    found = _load(key, name, path)
    if not isinstance(found, kind):
        raise ConfigError(
            f"{key}={name}: {path.value} is a {type(found).__name__}, not a {kind.__name__}: docs/extending.md has an "
            "example, with the decorator that makes one"
        )
    return found


def is_own(name: str, group: str) -> bool:
    """Whether `name` means a user's code, by its form or by an entry point; nothing is loaded."""
    return ":" in name or name in _offered(group).names


def import_path(name: str, group: str) -> EntryPoint | None:
    """Where `name` is imported from: itself if it is `module:attribute`, else the group's entry point, if any."""
    if ":" in name:
        return EntryPoint(name, name, group)
    return next(iter(_offered(group).select(name=name)), None)


def source_hash(name: str, group: str) -> str | None:
    """SHA-256 of the file that a user's selector stands in, for the stage's fingerprint; None for names of ours."""
    path = import_path(name, group)
    if path is None:
        return None
    _add_current_folder()
    spec = importlib.util.find_spec(path.module)
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    return hashlib.sha256(origin.read_bytes()).hexdigest() if origin is not None and origin.is_file() else None


def source_hashes(names: Mapping[str, str | None], groups: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 of users' own code by key, of the keys' values `names`: edited code is another input of a stage."""
    hashes = {key: source_hash(name, groups[key]) for key, name in names.items() if name and is_own(name, groups[key])}
    return {f"code of {key}": digest for key, digest in hashes.items() if digest is not None}


def _offered(group: str) -> EntryPoints:
    """What installed packages offer in a group."""
    offered: EntryPoints = _installed(tuple(sys.path)).select(group=group)
    return offered


@cache
def _installed(path: tuple[str, ...]) -> Any:
    """All entry points that are found on the path: reading those of every package takes some 30 ms."""
    return entry_points()


def _load(key: str, name: str, path: EntryPoint) -> Any:
    _add_current_folder()
    module, _, attribute = path.value.partition(":")
    if not module.strip() or not attribute.strip():
        raise ConfigError(f"{key}={name}: write module:attribute, as in my_selector:short_and_sure")
    try:
        loaded: Any = importlib.import_module(module.strip())
    except Exception as error:  # a user's module may raise anything while it is imported
        raise ConfigError(
            f"{key}={name}: module {module} can't be imported ({type(error).__name__}: {error}); start nopsd in the "
            f"folder that holds it (now {os.getcwd()}), or put that folder into PYTHONPATH"
        ) from error
    for part in attribute.strip().split("."):
        if not hasattr(loaded, part):
            raise ConfigError(f"{key}={name}: module {module} has no {attribute}: correct the name after the colon")
        loaded = getattr(loaded, part)
    return loaded


def _add_current_folder() -> None:
    """The console script's path lacks the current folder. Last in line, so that it hides no installed package."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
        importlib.invalidate_caches()
