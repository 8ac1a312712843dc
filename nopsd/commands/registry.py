"""The commands of `nopsd`, in the groups and the order in which its help lists them."""

from __future__ import annotations

from nopsd.commands import (
    chat,
    compare,
    completion,
    config,
    doctor,
    entropy_gap,
    eval,
    export,
    init,
    inspect,
    launch,
    plan,
    push,
    run,
    serve,
    stages,
    status,
    view,
)
from nopsd.commands.command import Command

GROUPS: dict[str, tuple[Command, ...]] = {
    "before a run": (init.COMMAND, plan.COMMAND, doctor.COMMAND, config.COMMAND),
    "a run, and its stages in order": (run.COMMAND, *stages.COMMANDS),
    "several hosts, several runs": (launch.COMMAND, compare.COMMAND),
    "what a run did": (
        status.COMMAND,
        view.COMMAND,
        inspect.COMMAND,
        eval.COMMAND,
        export.COMMAND,
        chat.COMMAND,
        entropy_gap.COMMAND,
        push.COMMAND,
    ),
    "others": (serve.COMMAND, completion.COMMAND),
}
COMMANDS: dict[str, Command] = {command.name: command for group in GROUPS.values() for command in group}
