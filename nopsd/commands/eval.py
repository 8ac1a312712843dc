"""`nopsd eval`: evaluate any checkpoint or hub model on a preset's targets."""

from __future__ import annotations

import argparse

from nopsd.commands.command import Command, add_config_arguments, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The configuration's `model.path` says which model."""
    add_config_arguments(parser)
    parser.add_argument("--redo", metavar="eval", help="delete this model's evaluation and redo it")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print the table."""
    config = load(arguments)
    from nopsd.tasks.evaluate import evaluate

    print(evaluate(config, arguments.redo))
    return 0


COMMAND = Command(
    "eval",
    "evaluate any checkpoint or hub model on the preset's targets",
    add_arguments,
    run,
    """\
  nopsd eval --preset lab model.path=runs/lab/train/export
  nopsd eval --preset paper/biology model.path=Qwen/Qwen3-8B""",
    shows_progress=True,
)
