"""`nopsd doctor`: check everything a run depends on, before it starts."""

from __future__ import annotations

import argparse

from nopsd.commands.command import Command, add_config_arguments, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The hosts to check, and the form of the answer."""
    add_config_arguments(parser)
    parser.add_argument("--hostfile", metavar="FILE", help="the hosts to check (dist.hostfile)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; 1 if a run could not start."""
    config = load(arguments, *([f"dist.hostfile={arguments.hostfile}"] if arguments.hostfile else []))
    from nopsd.tasks.doctor import doctor

    text, code = doctor(config, arguments.json)
    print(text)
    return code


COMMAND = Command(
    "doctor",
    "check hosts, model, memory, data, prompts and ports",
    add_arguments,
    run,
    "  nopsd doctor --preset lab\n  nopsd doctor --preset paper/biology --hostfile hosts --json",
    {0: "a run can start, though there may be warnings", 1: "it could not: the lines marked ERROR have the remedy"},
)
