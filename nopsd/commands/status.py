"""`nopsd status`: which stages of a run are done."""

from __future__ import annotations

import argparse

from nopsd.commands.command import Command, add_config_arguments, load


def run(arguments: argparse.Namespace) -> int:
    """Print a line a stage."""
    config = load(arguments)
    from nopsd.run import runner
    from nopsd.stages.registry import STAGES

    print(runner.status(STAGES, config))
    return 0


COMMAND = Command(
    "status", "print which stages of the run are done", add_config_arguments, run, "  nopsd status --preset lab"
)
