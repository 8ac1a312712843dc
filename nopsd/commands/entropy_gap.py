"""`nopsd entropy_gap`: entropies of student and teacher on their own samples."""

from __future__ import annotations

import argparse

from nopsd.commands.command import Command, add_config_arguments, load


def run(arguments: argparse.Namespace) -> int:
    """Measure, unless it is there, and print a line an estimator."""
    config = load(arguments)
    from nopsd.tasks.entropy_gap import measure, shown

    print(shown(measure(config)))
    return 0


COMMAND = Command(
    "entropy_gap",
    "entropies of student and teacher (the paper's Table 6)",
    add_config_arguments,
    run,
    "  nopsd entropy_gap --preset lab",
    shows_progress=True,
)
