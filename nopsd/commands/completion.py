"""`nopsd completion`: a shell's completion of commands, options, presets and keys."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from nopsd.commands.command import Command
from nopsd.commands.stages import HELP

SHELLS = ("bash", "zsh", "fish")
FILES = {"--config", "--hostfile", "--plan", "--correct"}
FOLDERS = {"--folder"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The shell."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to complete")


def run(arguments: argparse.Namespace) -> int:
    """Print the shell's script."""
    print(script(arguments.shell))
    return 0


def script(shell: str) -> str:
    """The completion script of one of `SHELLS`."""
    import shtab

    from nopsd.commands.parsing import parsers
    from nopsd.config import all_keys, preset_names

    words = {
        "--preset": _offered(preset_names()),
        "--redo": _offered(HELP),
        "overrides": _offered(f"{key.name}=" for key in all_keys()),
    }
    top, commands = parsers()
    for parser in commands.values():
        for action in parser._actions:  # argparse has no public way to the arguments of a parser
            names = {*action.option_strings} or {action.dest}
            if found := names & words.keys():
                action.complete = words[found.pop()]  # type: ignore[attr-defined]
            elif names & FILES or (not action.option_strings and not action.choices):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif names & FOLDERS:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return str(shtab.complete(top, shell=shell))


def _offered(words: Iterable[str]) -> Any:
    """A choice of words, in each shell's way: what a command prints."""
    import shtab

    return shtab.cmd(f"printf '%s\\n' {' '.join(words)}")


COMMAND = Command(
    "completion",
    "print a shell's completion script: bash, zsh or fish",
    add_arguments,
    run,
    """\
  nopsd completion bash       > ~/.local/share/bash-completion/completions/nopsd
  nopsd completion zsh        > a folder of $fpath, as _nopsd
  nopsd completion fish       > ~/.config/fish/completions/nopsd.fish""",
)
