"""API keys and other secrets: how they are made, where they are found, and what keeps them out of files and commands.

A key reaches other processes by the environment, standard input or a file of mode 600, never by a command line, where
`ps` shows it.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # ranks import this before anything heavy
    from nopsd.config import Config

SERVER_KEY_VARIABLE = "NOPSD_SERVER_KEY"  # the rollout servers' key, for clients and for `nopsd serve`
SECRET_ENDINGS = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")


def new_key() -> str:
    """A random key of 256 bits, printable."""
    return secrets.token_urlsafe(32)


def server_key(configured: str | None = None) -> str | None:
    """The rollout servers' key: `server.api_key`, else the environment's, if any."""
    return configured or os.environ.get(SERVER_KEY_VARIABLE)


def is_secret(variable: str) -> bool:
    """Whether an environment variable's name says that its value must not be shown."""
    return variable.endswith(SECRET_ENDINGS)


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
