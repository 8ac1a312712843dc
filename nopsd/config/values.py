"""What is written for a key, as the value that its type takes. Text stays the text it is.

In: a scalar of a YAML file or of `key=value`, never yet interpreted (`Plain`, or `str` where it was quoted), or a list
of them. Out: the value of the key's type. YAML's own reading would make False of a domain `no`, 83 of `0123` and 750
of `12:30`. A reference `${other.key}` to a key of the schema stands for that key's value; any other `${…}` is text.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from nopsd.config.schema.key import Key
from nopsd.errors import ConfigError

MOST_DIGITS = 400  # Python itself reads whole numbers of some 4,300
NULL = ("", "~", "null", "Null", "NULL")
TRUE = ("true", "yes", "on", "y", "1")
FALSE = ("false", "no", "off", "n", "0")
_REFERENCE = re.compile(r"(?<!\\)\$\{([A-Za-z_][\w.]*)\}")
_WHOLE = re.compile(r"[+-]?(\d[\d_]*|0x[0-9a-fA-F]+)")
_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?\.?(nan|inf)", re.IGNORECASE)


class Plain(str):
    """A scalar that was written without quotes: `null` is no text."""


@dataclass(frozen=True)
class Reference:
    """What is written, with references to other keys in it."""

    raw: Any

    def __str__(self) -> str:
        return str(self.raw)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Scalars as they are written; a key given twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen and name != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"{name} is given twice", key.start_mark)
            seen.add(name)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _scalar(loader: _Loader, node: Any) -> str:
    return Plain(node.value) if node.style is None else str(node.value)


for _tag in ("null", "bool", "int", "float", "timestamp", "str", "value", "binary"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _scalar)


def read_yaml(text: str) -> Any:
    """A YAML text's tree, its scalars as written. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader


def from_command_line(key: Key, text: str) -> Any:
    """What `key=value` gives: a list where the key takes one, else the text; quotes around all of it are YAML's."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if not (key.is_list or quoted):
        return Plain(text)
    try:
        return read_yaml(text)
    except yaml.YAMLError:
        if key.is_list:
            raise ConfigError(f"{key.name}={text}: not readable as a list: write [a, b]") from None
        return Plain(text)


def has_reference(raw: Any, known: Mapping[str, Any]) -> bool:
    """Whether `${key}` of a known key stands in it."""
    items = raw if isinstance(raw, list) else [raw]
    return any(isinstance(item, str) and any(name in known for name in _REFERENCE.findall(item)) for item in items)


def resolved(values: Mapping[str, Any], keys: Mapping[str, Key]) -> dict[str, Any]:
    """All values, each reference replaced by the text of the value that it names. ConfigError for a circle."""
    done: dict[str, Any] = {}

    def value_of(name: str, through: tuple[str, ...] = ()) -> Any:
        if name in through:
            raise ConfigError(f"{name}: refers to itself, by {' -> '.join([*through, name])}: write its value")
        if name not in done:
            value = values[name]
            if isinstance(value, Reference):
                value = parse(keys[name], replaced(value.raw, (*through, name)))
            done[name] = value
        return done[name]

    def replaced(raw: Any, through: tuple[str, ...]) -> Any:
        def shown(found: re.Match[str]) -> str:
            if found[1] not in keys:
                return found[0]
            value = value_of(found[1], through)
            return "null" if value is None else str(value)

        if isinstance(raw, list):
            return [replaced(item, through) for item in raw]
        return type(raw)(_REFERENCE.sub(shown, raw)) if isinstance(raw, str) else raw

    for name in values:
        value_of(name)
    return done


def escaped(value: Any, known: Mapping[str, Any]) -> Any:
    """A value to be written as YAML: what looks like a reference is marked as text."""
    if isinstance(value, list):
        return [escaped(item, known) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) and has_reference(value, known) else value


def parse(key: Key, raw: Any) -> Any:
    """The key's value; ConfigError if its type can't take what is written."""
    if key.optional and (raw is None or (isinstance(raw, Plain) and raw in NULL)):
        return None
    kind = key.type.removesuffix(" or null")
    if not key.is_list:
        return _parsed(key, kind, raw)
    if not isinstance(raw, list):
        raise ConfigError(f"{key.name}={raw}: must be a list, such as [{_EXAMPLES[kind]}]")
    return [_parsed(key, kind.removeprefix("list[").removesuffix("]"), item) for item in raw]


_EXAMPLES = {"list[str]": "a, b", "list[float]": "0.9, 0.999"}


def _parsed(key: Key, kind: str, raw: Any) -> Any:
    if not isinstance(raw, str):
        shown = "a section" if isinstance(raw, Mapping) else "a list" if isinstance(raw, list) else raw
        raise ConfigError(f"{key.name}: must be {_KINDS[kind]}, got {shown}")
    value = _READERS[kind](raw)
    if value is None or (kind == "str" and isinstance(raw, Plain) and raw in NULL[1:]):
        raise ConfigError(f"{key.name}={raw}: must be {_KINDS[kind]}{', or null' if key.optional else ''}")
    if kind == "str" and not _writable(value):
        raise ConfigError(f"{key.name}={value!r}: has a control character, or bytes that are no UTF-8: leave them out")
    return os.path.expanduser(value) if key.path and value.startswith("~") else value


def _writable(text: str) -> bool:
    return not any(ord(c) < 32 and c not in "\t\n" or 0xD800 <= ord(c) < 0xE000 or ord(c) == 127 for c in text)


def _text(raw: str) -> str:
    return str(raw).replace("\\${", "${")


def _flag(raw: str) -> bool | None:
    return {**dict.fromkeys(TRUE, True), **dict.fromkeys(FALSE, False)}.get(raw.strip().lower())


def _whole(raw: str) -> int | None:
    text = raw.strip()
    if _WHOLE.fullmatch(text) and len(text) <= MOST_DIGITS:
        return int(text, 16 if "x" in text else 10)
    number = _number(raw)
    return int(number) if number is not None and math.isfinite(number) and number == int(number) else None


def _number(raw: str) -> float | None:
    text = raw.strip()
    try:
        return float(text.replace(".nan", "nan").replace(".inf", "inf")) if _NUMBER.fullmatch(text.lower()) else None
    except ValueError:
        return None


_READERS: dict[str, Callable[[str], Any]] = {"str": _text, "bool": _flag, "int": _whole, "float": _number}
_KINDS = {"str": "text", "bool": "true or false", "int": "a whole number", "float": "a number"}
