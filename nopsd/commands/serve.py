"""`nopsd serve`: this host's rollout servers, for a run on another host."""

from __future__ import annotations

import argparse

from nopsd.commands.command import Command, add_config_arguments, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which configuration, and how many devices are others'."""
    add_config_arguments(parser)
    parser.add_argument(
        "--ranks", type=int, default=0, metavar="N", help="ranks that train on this host, on its first GPUs (default 0)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until standard input ends."""
    config = load(arguments)
    from nopsd.run.session import serve_here

    serve_here(config, arguments.ranks)
    return 0


COMMAND = Command(
    "serve",
    "start this host's rollout servers, for a run on another host",
    add_arguments,
    run,
    "  nopsd serve --preset lab server.port=8000",
)
