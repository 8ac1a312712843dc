"""The command line: `nopsd COMMAND [--preset NAME] [key=value ...]`. One sub-parser a command, from `nopsd.commands`.

In: the arguments, and in ranks the launcher's environment. Out: an exit code; errors that a user can mend as one line
on standard error. Called in-process, `main` leaves signal handlers, signal mask and environment as they were.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from nopsd.cluster import rank
from nopsd.commands.registry import COMMANDS
from nopsd.engine.stopping import NOTICE
from nopsd.errors import Stopped, UserError

# The launcher ends all ranks when the first ends: rank 0's message comes first.
OTHER_RANKS_WAIT_S = 3.0
VALUED = ("--preset", "--config", "--redo", "--local_rank")  # options with a value that may come before the command
# Must be set before torch and deepspeed are imported; what the user set stays.
QUIET = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
EXAMPLES = """\
examples:
  nopsd run --preset lab                                      the embedded lab, end to end
  nopsd train --config runs/lab/config.yaml                   a stage, after those that it reads
  nopsd run --dry-run --preset paper/biology                  check, and print what it would do
  nopsd compare --preset lab --sources biology,chemistry --methods nopsd,ttrl --seeds 0,1
`nopsd COMMAND --help` describes a command."""


def parsers() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """The whole command line's parser, and each command's."""
    top = argparse.ArgumentParser(
        prog="nopsd",
        description="Neuron On-Policy Self-Distillation: label-free training of a language model on questions.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
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
    having = [name for name, parser in commands.items() if re.search(rf"\[{re.escape(flag)}\b", parser.format_usage())]
    return f" ({flag} belongs to: nopsd {', '.join(having)})" if having else ""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    with process_state_restored():
        return run(arguments)


def run(arguments: argparse.Namespace) -> int:
    """The command, and its errors as messages."""
    try:
        rank.setup(arguments.command)
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        take_sigterm(arguments.finishes_step)
        code: int = arguments.run(arguments)
        rank.disconnect()
        return code
    except UserError as error:
        return _fail(str(error), of_rank=error.of_rank)
    except Stopped as stopped:
        rank.disconnect()
        print(f"nopsd: {stopped}; the same command continues", file=sys.stderr, flush=True)
        return 0
    except Exception:
        if "RANK" not in os.environ:
            raise
        traceback.print_exc()  # an orderly exit might wait for the other ranks, which wait for this one
        rank.report(traceback.format_exc().strip().splitlines()[-1])
        sys.stderr.flush()
        os._exit(1)
    except KeyboardInterrupt:
        return _fail("stopped; the same command continues where it was", 130)


@contextmanager
def process_state_restored() -> Iterator[None]:
    """Restores SIGTERM's handler, the signal mask and the variables of `QUIET`: `main` may be called in-process."""
    handler, mask = signal.getsignal(signal.SIGTERM), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    variables = {name: os.environ.get(name) for name in QUIET}
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def take_sigterm(finishes_step: bool) -> None:
    """Schedulers send it before they kill. A rank that trains notes it and saves first; every other process is
    interrupted, and ends its server and ranks in an orderly way."""
    if finishes_step and "RANK" in os.environ:
        NOTICE.listen()
        return
    signal.signal(signal.SIGTERM, _interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _fail(message: str, code: int = 1, of_rank: int | None = None) -> int:
    from nopsd.cluster.logs import ERROR_PREFIX, RANK_TAG
    from nopsd.cluster.stage_launcher import under_launcher

    number = os.environ.get("RANK", "0") if under_launcher() else "0"
    tag = "" if number == "0" else f"{RANK_TAG}{number}] "
    print(f"{ERROR_PREFIX}{tag}{message}", file=sys.stderr, flush=True)
    if under_launcher():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # DeepSpeed's launcher sends it when another rank has ended
        rank.report(message, "user_error", of_rank)
        if number != "0":
            time.sleep(OTHER_RANKS_WAIT_S)
        # The other ranks may wait in a collective, and so would an orderly exit.
        os._exit(code)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
