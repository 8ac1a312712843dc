"""`nopsd config`: the resolved configuration."""

from __future__ import annotations

import argparse

from nopsd.commands.command import Command, add_config_arguments, load


def run(arguments: argparse.Namespace) -> int:
    """Print it as YAML."""
    from nopsd.config import to_yaml

    print(to_yaml(load(arguments)), end="")
    return 0


COMMAND = Command(
    "config",
    "print the resolved configuration",
    add_config_arguments,
    run,
    "  nopsd config --preset lab\n  nopsd config --preset paper/biology train.steps=50",
)
