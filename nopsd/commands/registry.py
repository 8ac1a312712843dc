"""The commands of `nopsd`, in the order in which its help lists them."""

from __future__ import annotations

from nopsd.commands import compare, config, doctor, entropy_gap, eval, inspect, launch, run, serve, stages, status
from nopsd.commands.command import Command

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        run.COMMAND,
        *stages.COMMANDS,
        launch.COMMAND,
        inspect.COMMAND,
        eval.COMMAND,
        entropy_gap.COMMAND,
        compare.COMMAND,
        config.COMMAND,
        status.COMMAND,
        serve.COMMAND,
        doctor.COMMAND,
    )
}
