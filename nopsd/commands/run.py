"""`nopsd run`: every stage of a run."""

from __future__ import annotations

import argparse

from nopsd.commands import stages
from nopsd.commands.command import Command, load, stage_name


def run(arguments: argparse.Namespace) -> int:
    """Bring all stages up to date."""
    config = load(arguments)
    if arguments.dry_run:
        from nopsd.tasks.dry_run import dry_run

        text, code = dry_run(config)
        print(text)
        return code
    if config.rounds > 1:
        from nopsd.tasks.rounds import run_rounds

        print(run_rounds(config, stage_name(arguments.redo)))
        return 0
    from nopsd.run import runner
    from nopsd.stages.registry import STAGES
    from nopsd.stages.report import final_message

    print(final_message(runner.run_all(STAGES, config, stage_name(arguments.redo))))
    return 0


COMMAND = Command(
    "run",
    "run every stage, in this order; what is up to date is skipped",
    stages.add_arguments,
    run,
    """\
  nopsd run --preset lab                                  the embedded lab, end to end
  nopsd run --preset lab data.domain=chemistry select.selector=random
  nopsd run --preset lab --redo train                     train again, and what reads it
  nopsd run --dry-run --preset paper/biology              what it would do; needs no GPU, network or weights""",
    {1: "a stage failed, or --dry-run found what would make one fail: its line has the remedy"},
    shows_progress=True,
)
