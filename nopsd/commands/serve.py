"""`nopsd serve`: this host's rollout servers, for a run on another host."""

from __future__ import annotations

import argparse

from nopsd.commands.command import Command, add_config_arguments, load


def run(arguments: argparse.Namespace) -> int:
    """Serve until standard input ends."""
    config = load(arguments)
    from nopsd.run.session import serve_here

    serve_here(config)
    return 0


COMMAND = Command(
    "serve",
    "start this host's rollout servers, for a run on another host",
    add_config_arguments,
    run,
    "  nopsd serve --preset lab server.port=8000",
)
