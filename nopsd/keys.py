"""API keys and other secrets: how they are made, where they are found, and what keeps them out of files and commands.

A key reaches other processes by the environment, standard input or a file of mode 600, never by a command line, where
`ps` shows it. What a variable or key holds is known by its name (`is_secret`).
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # ranks import this before anything heavy
    from nopsd.config import Config

SERVER_KEY_VARIABLE = "NOPSD_SERVER_KEY"  # the rollout servers' key, for clients and for `nopsd serve`
PASS_VARIABLE = "NOPSD_PASS"  # names of further variables, by commas, that our processes are given though secret
GIVEN = (SERVER_KEY_VARIABLE, "HF_TOKEN")  # to ranks and servers, which need them
WITHHELD = "(withheld)"
SECRET = re.compile(r"(keys?|secrets?|passw(or)?ds?|passphrase|credentials?)(?![a-z])|token\d*$", re.I)
WORD = re.compile(r"(?P<name>[\w.-]+)=.*", re.S)
USER_INFO = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*(?=@)")


def new_key() -> str:
    """A random key of 256 bits, printable."""
    return secrets.token_urlsafe(32)


def server_key(configured: str | None = None) -> str | None:
    """The rollout servers' key: `server.api_key`, else the environment's, if any."""
    return configured or os.environ.get(SERVER_KEY_VARIABLE)


def is_secret(name: str) -> bool:
    """Whether the name of a variable or key says that its value must not be shown."""
    return bool(SECRET.search(name))


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """What processes of ours are given of an environment: no secrets but those that they need, or NOPSD_PASS names."""
    given = (*GIVEN, *environment.get(PASS_VARIABLE, "").split(","))
    return {name: value for name, value in environment.items() if name in given or not is_secret(name)}


def redacted(value: Any, name: str = "") -> Any:
    """Plain data without secrets, also those in URLs: reports and records are passed on."""
    if isinstance(value, Mapping):
        return {str(k): redacted(v, str(k)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(v, name) for v in value]
    if isinstance(value, str):
        return WITHHELD if value and is_secret(name) else USER_INFO.sub(WITHHELD, value)
    return value if value is None or isinstance(value, (int, float, bool)) else str(value)


def redacted_words(words: Iterable[str]) -> list[str]:
    """A command line as it may be recorded."""
    found = [(WORD.fullmatch(word.lstrip("-")), str(redacted(word))) for word in words]
    return [f"{m['name']}={WITHHELD}" if m and is_secret(m["name"]) else word for m, word in found]


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 600, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    os.replace(part, path)


def without_keys(config: Config) -> Config:
    """The configuration as it may lie in a shared folder; ranks are given the key through the environment."""
    return replace(config, server=replace(config.server, api_key=None))
