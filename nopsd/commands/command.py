"""What a command is, and the arguments that commands share. Nothing heavy is imported: `nopsd --help` is quick."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nopsd.config import Config

ALIASES = {"score": "neurons"}  # other names of a stage


@dataclass(frozen=True)
class Command:
    """`run` gets the parsed arguments and returns the exit code. `finishes_step`: a rank that gets SIGTERM notes it and
    ends after its step, instead of being interrupted."""

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    examples: str = ""
    finishes_step: bool = False

    def fill(self, parser: argparse.ArgumentParser) -> None:
        """Give its parser all that the command takes."""
        parser.description = self.help
        parser.epilog = f"examples:\n{self.examples}" if self.examples else None
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        self.add_arguments(parser)
        parser.set_defaults(run=self.run, command=self.name, finishes_step=self.finishes_step)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """What says which configuration."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="configuration overrides; `preset=NAME` works too"
    )
    parser.add_argument("--preset", metavar="NAME", help="a preset's name, or a YAML file")
    parser.add_argument("--config", metavar="FILE", help="a resolved config.yaml of a run folder, used whole")
    parser.add_argument("--local_rank", type=int, default=-1, help=argparse.SUPPRESS)  # given by some launchers


def add_redo_argument(parser: argparse.ArgumentParser) -> None:
    """For commands that bring stages up to date."""
    parser.add_argument("--redo", metavar="STAGE", help="delete this stage and those that read it, and redo them")


def load(arguments: argparse.Namespace, *overrides: str) -> Config:
    """The configuration that the arguments ask for; `overrides` come last. Raises ConfigError."""
    from nopsd.config import load_config

    presets = [item.split("=", 1)[1] for item in arguments.overrides if item.startswith("preset=")]
    given = [item for item in arguments.overrides if not item.startswith("preset=")]
    preset = arguments.config or arguments.preset or (presets or [None])[-1]
    return load_config(preset, [*given, *overrides])


def stage_name(name: str | None) -> str | None:
    """The stage's own name, of a name as typed."""
    return None if name is None else ALIASES.get(name, name)
