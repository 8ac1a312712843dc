"""What a command is, and the arguments that commands share. Nothing heavy is imported: `nopsd --help` is quick."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nopsd.config import Config

ALIASES = {"score": "neurons"}  # other names of a stage
EXIT_CODES = {
    0: "done",
    1: "it failed: one line on standard error has the cause and the remedy",
    2: "the command line can't be understood",
    130: "interrupted (Ctrl-C or SIGTERM); the same command continues",
}


@dataclass(frozen=True)
class Command:
    """One command of `nopsd`.

    Attributes:
        help: What it does, in at most 62 characters: a line of `nopsd --help`.
        run: Gets the parsed arguments and returns the exit code.
        examples: Lines as typed, each indented by two spaces.
        exit_codes: Where a code means something else than `EXIT_CODES` says.
        finishes_step: A rank that gets SIGTERM notes it and ends after its step, instead of being interrupted.
        shows_progress: It has `--quiet`, which leaves out all that it prints but errors.
    """

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    examples: str
    exit_codes: Mapping[int, str] = field(default_factory=dict)
    finishes_step: bool = False
    shows_progress: bool = False

    def fill(self, parser: argparse.ArgumentParser) -> None:
        """Give its parser all that the command takes."""
        parser.description = self.help
        codes = "\n".join(f"  {code:<5}{meaning}" for code, meaning in {**EXIT_CODES, **self.exit_codes}.items())
        parser.epilog = f"examples:\n{self.examples}\n\nexit codes:\n{codes}"
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        self.add_arguments(parser)
        if self.shows_progress:
            parser.add_argument("-q", "--quiet", action="store_true", help="print errors alone")
        parser.set_defaults(run=self.run, command=self.name, finishes_step=self.finishes_step)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """What says which configuration."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings on top of the preset (nopsd config --explain KEY)"
    )
    parser.add_argument("--preset", metavar="NAME", help="a preset's name, or a YAML file")
    parser.add_argument("--config", metavar="FILE", help="a run folder's config.yaml, used whole")
    parser.add_argument("--local_rank", type=int, default=-1, help=argparse.SUPPRESS)  # given by some launchers


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """What says which run: its folder, or the configuration that names it."""
    add_config_arguments(parser)
    for action in parser._actions:
        if action.dest == "overrides":
            action.metavar, action.help = "RUN", "the run's folder; or --preset and key=value, as of `nopsd run`"


def load_run(arguments: argparse.Namespace) -> Config:
    """The configuration of the run that is meant. UserError if a folder is given that holds none."""
    from pathlib import Path

    from nopsd.errors import UserError

    folders = [item for item in arguments.overrides if "=" not in item]
    if not folders:
        return load(arguments)
    folder = Path(folders[0]).expanduser()
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} has no config.yaml, so it is no run folder, or its first stage has not begun yet")
    arguments.overrides = [item for item in arguments.overrides if item not in folders]
    arguments.config = str(folder / "config.yaml")
    return load(arguments, f"run_dir={folder}")


def add_redo_argument(parser: argparse.ArgumentParser) -> None:
    """For commands that bring stages up to date."""
    parser.add_argument("--redo", metavar="STAGE", help="delete this stage and those that read it, and redo them")


_loaded: list[Config] = []


def last_run_dir() -> str | None:
    """The run folder of the configuration that was loaded last, for the record of a crash."""
    return _loaded[-1].run_dir if _loaded else None


def load(arguments: argparse.Namespace, *overrides: str) -> Config:
    """The configuration that the arguments ask for, on this machine; `overrides` come last. Raises ConfigError."""
    from nopsd.config import load_config
    from nopsd.engine.device import with_settled_dtype

    presets = [item.split("=", 1)[1] for item in arguments.overrides if item.startswith("preset=")]
    given = [item for item in arguments.overrides if not item.startswith("preset=")]
    preset = arguments.config or arguments.preset or (presets or [None])[-1]
    _loaded[:] = [with_settled_dtype(load_config(preset, [*given, *overrides]))]
    return _loaded[0]


def stage_name(name: str | None) -> str | None:
    """The stage's own name, of a name as typed."""
    return None if name is None else ALIASES.get(name, name)
