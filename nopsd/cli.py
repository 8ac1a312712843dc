"""The command line: `nopsd COMMAND [--preset NAME] [key=value ...]`. What a command takes is in `nopsd.commands`.

In: the arguments, and in ranks the launcher's environment. Out: an exit code; errors that a user can fix as one line
on standard error. Called in-process, `main` leaves signal handlers, signal mask and environment as they were.
"""

from __future__ import annotations

import argparse
import errno
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from nopsd.cluster import rank
from nopsd.commands import command
from nopsd.commands.parsing import parse
from nopsd.engine.stopping import NOTICE
from nopsd.errors import Stopped, UserError
from nopsd.surroundings import crash_report, have_home, print_anything, use_utf8
from nopsd.terminal import painted

# The launcher ends all ranks when the first ends: rank 0's message comes first.
OTHER_RANKS_WAIT_S = 3.0
CRASHED = 1
# Of a file that the system refuses, whoever asked for it.
REMEDIES = {
    errno.ENAMETOOLONG: "shorten it",
    errno.ENOSPC: "free some space; the same command continues",
    errno.EDQUOT: "free some space; the same command continues",
    errno.EROFS: "name a place that can be written",
}
# Must be set before torch and deepspeed are imported; what the user set stays.
QUIET = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    if argv is None:
        print_anything()
        use_utf8()
        have_home()
    arguments = parse(sys.argv[1:] if argv is None else argv)
    with process_state_restored():
        return run(arguments)


def run(arguments: argparse.Namespace) -> int:
    """The command, and its errors as messages."""
    try:
        rank.setup(arguments.command)
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        handle_sigterm(arguments.finishes_step)
        with muted(getattr(arguments, "quiet", False)):
            code: int = arguments.run(arguments)
            sys.stdout.flush()
        rank.disconnect()
        return code
    except UserError as error:
        return _fail(str(error), of_rank=error.of_rank)
    except Stopped as stopped:
        rank.disconnect()
        print(f"nopsd: {stopped}; the same command continues", file=sys.stderr, flush=True)
        return 0
    except BrokenPipeError:
        if not output_is_closed():
            raise
        return 141  # as of a program that SIGPIPE ends
    except Exception as error:
        if isinstance(error, OSError) and error.errno in REMEDIES:
            name = " ".join(str(error.filename or "a file").split())
            return _fail(f"{name[:80]}: {error.strerror}: {REMEDIES[error.errno]}")
        if "RANK" not in os.environ:
            return _fail(crash_report(error, command.last_run_dir()), CRASHED)
        traceback.print_exc()  # an orderly exit might wait for the other ranks, which wait for this one
        rank.report(traceback.format_exc().strip().splitlines()[-1])
        sys.stderr.flush()
        os._exit(1)
    except KeyboardInterrupt:
        return _fail("stopped; the same command continues where it was", 130)


def output_is_closed() -> bool:
    """Whether the reader of standard output, as `head` in `nopsd config | head`, has gone; nothing more is written."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


@contextmanager
def muted(quiet: bool) -> Iterator[None]:
    """With `quiet`, nothing that Python prints reaches standard output; errors go to standard error."""
    if not quiet:
        yield
        return
    with open(os.devnull, "w") as sink, redirect_stdout(sink):
        yield


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


def handle_sigterm(finishes_step: bool) -> None:
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
    print(f"{painted(ERROR_PREFIX, 'red', sys.stderr)}{tag}{message}", file=sys.stderr, flush=True)
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
