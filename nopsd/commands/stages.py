"""`nopsd STAGE`: one stage, after those that it reads; as a rank that a launcher started, that stage alone."""

from __future__ import annotations

import argparse

from nopsd.commands.command import ALIASES, Command, add_config_arguments, add_redo_argument, load, stage_name

HELP = {
    "data": "split the data set into the unlabeled pool and test questions",
    "rollout": "sample the base model's zero-shot answers to the pool",
    "evaluate_base": "evaluate the base model on the test questions",
    "neurons": "score the pool: the answers' neuron sets and their counts s(x)",
    "signals": "compute what selectors other than the paper's go by",
    "select": "select questions to train on, and retrieve demonstrations",
    "train": "train by on-policy self-distillation, or the method's trainer",
    "evaluate": "evaluate the trained model on the test questions",
    "report": "write the report: tables and figures, as HTML and markdown",
    **{alias: f"another name of `{stage}`" for alias, stage in ALIASES.items()},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A stage's, and `nopsd run`'s."""
    add_config_arguments(parser)
    add_redo_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="check, and print what it would do")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the data stage."""
    add_arguments(parser)
    parser.add_argument("--show", type=_count, metavar="N", help="print N questions as they are asked and judged")


def _count(text: str) -> int:
    """A number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a number above 0")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Bring the stage and what it reads up to date."""
    config, name = load(arguments), ALIASES.get(arguments.command, arguments.command)
    if getattr(arguments, "show", None) is not None:
        from nopsd.tasks.show import show

        print(show(config, arguments.show))
        return 0
    if arguments.dry_run:
        from nopsd.tasks.dry_run import dry_run

        text, code = dry_run(config, name)
        print(text)
        return code
    from nopsd.run import runner
    from nopsd.stages.registry import STAGES

    runner.run_one(STAGES, config, name, stage_name(arguments.redo))
    return 0


def example(name: str) -> str:
    """How the stage is typed."""
    ways = ("--preset lab", "--config runs/lab/config.yaml", "--preset lab --dry-run")
    return "\n".join(f"  nopsd {name} {way}" for way in ways)


COMMANDS = tuple(
    Command(
        name,
        text,
        add_data_arguments if name == "data" else add_arguments,
        run,
        example(name),
        finishes_step=name == "train",
        shows_progress=True,
    )
    for name, text in HELP.items()
)
