"""`nopsd view`: look at runs in a browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from nopsd.commands.command import Command, add_run_arguments, load_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The runs, and where the pages go."""
    add_run_arguments(parser)
    parser.add_argument("--port", type=int, metavar="N", help="of this host (default 8642, or another that is free)")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write all pages as one HTML file, and end")


def run(arguments: argparse.Namespace) -> int:
    """Serve the pages, or write them."""
    given = arguments.overrides
    settings = [item for item in given if "=" in item]
    configs = []
    for folder in [[item] for item in given if "=" not in item] or [[]]:
        arguments.overrides = [*folder, *settings]
        configs.append(load_run(arguments))
    from nopsd.run.rounds import rounds_of
    from nopsd.tasks import view

    configs = [one for config in configs for one in rounds_of(config)]

    if arguments.export is not None:
        view.export(configs, arguments.export)
        print(f"wrote {arguments.export}")
    else:
        view.view(configs, arguments.port)
    return 0


COMMAND = Command(
    "view",
    "runs in a browser: curves, every response, questions",
    add_arguments,
    run,
    """\
  nopsd view runs/lab
  nopsd view runs/a runs/b                  two runs over each other
  nopsd view runs/lab --export run.html     one file, to pass on""",
)
