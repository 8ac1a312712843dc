"""`nopsd inspect`: look at a scored pool."""

from __future__ import annotations

import argparse
from pathlib import Path

from nopsd.commands.command import Command, add_config_arguments, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The questions to show, and an evaluation to show them with."""
    add_config_arguments(parser)
    parser.add_argument(
        "--question",
        metavar="UID",
        action="append",
        default=[],
        help="show the nearest neighbours of this question (may be repeated)",
    )
    parser.add_argument(
        "--correct",
        metavar="FILE",
        type=Path,
        help="an evaluation of the pool's answers (pool_correct.json, eval_*.jsonl)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write RUN/inspect and print its summary."""
    config = load(arguments)
    from nopsd.tasks.inspect import inspect

    print(inspect(config, arguments.question, arguments.correct))
    return 0


COMMAND = Command(
    "inspect",
    "look at a scored pool: figures, overlaps, nearest questions",
    add_arguments,
    run,
    "  nopsd inspect --preset lab\n  nopsd inspect --preset lab --question biology-pool-0003",
    shows_progress=True,
)
