"""The command line's parser: one sub-parser a command, and help that lists them in groups and in order."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence

from nopsd import __version__
from nopsd.commands.registry import COMMANDS, GROUPS

VALUED = ("--preset", "--config", "--redo", "--local_rank")  # options with a value that may come before the command
DESCRIPTION = """\
usage: nopsd COMMAND [--preset NAME] [key=value ...]

Label-free training of a language model on questions (arXiv 2607.02460)."""
EXAMPLE = "nopsd run --preset lab; what a command takes: nopsd COMMAND --help"


class TopParser(argparse.ArgumentParser):
    """The whole command line's parser; its help has a line a command, in groups and in order."""

    def format_help(self) -> str:
        """One screen."""
        groups = [
            "\n".join([f"{title}:", *(f"  {command.name:14}{command.help}" for command in group)])
            for title, group in GROUPS.items()
        ]
        return "\n\n".join([DESCRIPTION, "\n".join(groups), f"example: {EXAMPLE}\n"])


def parsers() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """The whole command line's parser, and each command's."""
    top = TopParser(prog="nopsd")
    top.add_argument("--version", action="version", version=f"nopsd {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=argparse.ArgumentParser)
    for command in COMMANDS.values():
        command.fill(commands.add_parser(command.name, help=command.help))
    return top, commands.choices


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command's arguments. Options and overrides may be mixed, and options may come before the command, as
    DeepSpeed's launcher puts --local_rank. Exits with a message if they can't be understood."""
    top, commands = parsers()
    place = command_place(argv)
    if place is None:
        return top.parse_args(argv)  # --help, or the message that there is no command
    name = argv[place]
    if name not in commands:
        near = difflib.get_close_matches(name, list(commands), n=1)
        top.error(f"unknown command {name!r}{f': did you mean {near[0]!r}?' if near else ''} (see nopsd --help)")
    arguments, unknown = commands[name].parse_known_intermixed_args([*argv[:place], *argv[place + 1 :]])
    if unknown:
        commands[name].error(f"unrecognized arguments: {' '.join(unknown)}{whose(unknown[0], commands)}")
    return arguments


def command_place(argv: Sequence[str]) -> int | None:
    """Where the command stands: the first word that is neither an option nor an option's value."""
    for place, word in enumerate(argv):
        if not word.startswith("-") and (place == 0 or argv[place - 1] not in VALUED):
            return place
    return None


def whose(option: str, commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """Which commands have an option that this one lacks."""
    flag = option.split("=")[0]
    option_of = re.compile(rf"\[{re.escape(flag)}(?![\w-])")
    having = [name for name, parser in commands.items() if option_of.search(parser.format_usage())]
    return f" ({flag} belongs to: nopsd {', '.join(having)})" if having else ""
