"""`nopsd export`: a kept checkpoint of a training as a model folder."""

from __future__ import annotations

import argparse

from nopsd.commands.command import Command, add_run_arguments, load_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, and the step."""
    add_run_arguments(parser)
    parser.add_argument("--step", type=int, metavar="N", help="steps that it was trained; without it: which are kept")


def run(arguments: argparse.Namespace) -> int:
    """Export the checkpoint into RUN/exports, or list those that are kept."""
    config = load_run(arguments)
    from nopsd.cluster.stage_launcher import under_launcher
    from nopsd.tasks.export import export, export_as_rank, listed

    if under_launcher():
        export_as_rank(config)
    else:
        print(listed(config) if arguments.step is None else export(config, arguments.step))
    return 0


COMMAND = Command(
    "export",
    "a kept checkpoint as a model folder: RUN/exports/step-N",
    add_arguments,
    run,
    """\
  nopsd export runs/lab                  steps whose checkpoints are kept, with their scores
  nopsd export runs/lab --step 100       into runs/lab/exports/step-100, checked by reloading""",
    shows_progress=True,
)
