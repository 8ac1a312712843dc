"""`nopsd status`: where a run is."""

from __future__ import annotations

import argparse

from nopsd.commands.command import Command, add_run_arguments, load_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, and the form of the answer."""
    add_run_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print a line a stage, cost, time left and the last error."""
    config = load_run(arguments)
    from nopsd.tasks import status

    print(status.status(config, arguments.json))
    return 0


COMMAND = Command(
    "status",
    "where a run is, what it costs, when it ends, what went wrong",
    add_arguments,
    run,
    """\
  nopsd status runs/lab
  nopsd status runs/lab --json
  nopsd status --preset lab                 the run that the preset names""",
)
