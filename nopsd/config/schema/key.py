"""What a configuration key is: its type, default, allowed values, source and help, kept in its dataclass field."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypedDict, Union, Unpack, get_args, get_origin, get_type_hints

from nopsd.errors import ConfigError

_METADATA = "nopsd"
LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, of Linux
LONGEST_WAIT_S = 1e9  # Python's own timeouts end at 9.2e9
LARGEST = 2**53  # of any number: whole numbers above are not exact in JSON, and no key means so much


class Details(TypedDict, total=False):
    """What else may be said of a key."""

    source: str  # where the default comes from: the paper, its authors' code, or "chosen: reason"
    choices: tuple[str | None, ...]  # the allowed values
    entry_points: str  # group of entry points that add choices; `module:attribute` is allowed too
    ge: float  # bounds, as in annotated-types: at least
    gt: float  # above
    le: float  # at most
    lt: float  # below
    size: int  # items of a list; bounds are those of each item
    path: bool  # a path of this machine, in which `~` is the user's home
    follows: str  # key whose value is the default
    runtime_only: bool  # changes how a run is computed, not its results: a run may be continued with another value


def key(default: Any, help: str, **details: Unpack[Details]) -> Any:
    """A dataclass field of a configuration section. `default` is copied where it is a list."""
    metadata = {_METADATA: {"help": help, **details}}
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Key:
    """One key of the configuration. `name` is dotted, `default` may be a reference (`${seed}`: that of `seed`)."""

    name: str
    type: str
    default: Any
    help: str
    source: str = "chosen"
    choices: tuple[str | None, ...] = ()
    entry_points: str | None = None
    ge: float = -math.inf
    gt: float = -math.inf
    le: float = math.inf
    lt: float = math.inf
    size: int | None = None
    path: bool = False
    follows: str | None = None
    runtime_only: bool = False

    @property
    def optional(self) -> bool:
        """Whether null is allowed."""
        return self.type.endswith(" or null")

    @property
    def is_list(self) -> bool:
        """Whether it takes several values."""
        return self.type.startswith("list[")

    @property
    def is_number(self) -> bool:
        """Whether it takes a number, or numbers."""
        return self.type.removesuffix(" or null") in ("int", "float", "list[int]", "list[float]")

    @property
    def bounds(self) -> str:
        """The bounds in words; empty where there are none."""
        words = (("at least", self.ge), ("above", self.gt), ("at most", self.le), ("below", self.lt))
        return " and ".join(f"{word} {bound:.15g}" for word, bound in words if math.isfinite(bound))

    def check(self, value: Any) -> None:
        """ConfigError for a value that the key can't take."""
        if value is None and self.optional:
            return
        if self.path and not self.optional and not value.strip():
            raise ConfigError(f"{self.name} is empty: give a path")
        if self.path and (len(os.fsencode(value)) > LONGEST_PATH or any(map(_too_long, value.split("/")))):
            raise ConfigError(f"{self.name}={value[:40]}...: is longer than a file's name can be: shorten it")
        if self.choices and value not in self.choices:
            known = [str(choice) for choice in self.choices if choice is not None]
            near = difflib.get_close_matches(str(value), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{self.name}={value}: use one of {', '.join(known)}{self._or_null}{hint}")
        if self.size is not None and len(value) != self.size:
            raise ConfigError(f"{self.name}={value}: must be {self.size} numbers, got {len(value)}")
        if self.is_number:
            for item in value if self.is_list else [value]:
                self._check_number(item)

    def _check_number(self, value: float) -> None:
        if self.bounds and not (self.ge <= value <= self.le and self.gt < value < self.lt):
            raise ConfigError(f"{self.name}={value}: must be {self.bounds}{self._or_null}")
        if not abs(value) <= LARGEST:
            raise ConfigError(f"{self.name}={value}: must be a finite number of at most {LARGEST:g}{self._or_null}")

    @property
    def _or_null(self) -> str:
        return ", or null" if self.optional else ""


def _too_long(name: str) -> bool:
    return len(os.fsencode(name)) > LONGEST_NAME


@cache
def keys_of(section: type) -> tuple[Key, ...]:
    """Every key of a dataclass of keys and sections, in the order of its fields."""
    return tuple(_walk(section, ""))


def _walk(section: type, prefix: str) -> Iterator[Key]:
    hints = get_type_hints(section)
    for field in dataclasses.fields(section):
        name, hint = f"{prefix}{field.name}", hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _walk(hint, f"{name}.")  # type: ignore[arg-type]
            continue
        details = dict(field.metadata[_METADATA])
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        if "follows" in details:
            default = f"${{{details['follows']}}}"
        yield Key(name, _type_name(hint), default, **details)


def _type_name(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join("null" if part is type(None) else _type_name(part) for part in get_args(hint))
    return str(hint) if get_origin(hint) else str(hint.__name__)
