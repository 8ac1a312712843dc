"""What a process's log says of its failure, for an error message."""

from __future__ import annotations

import re
import signal
from pathlib import Path

TAIL_LINES = 12
ERROR_PREFIX = "nopsd: error: "  # before every error that a user can act on
RANK_TAG = "[rank "
# Lines that say nothing of a failure: Python's warnings and the code below them, DeepSpeed's launcher at work.
NOISE = re.compile(r"\S+\.py:\d+: \w+Warning: |\s+(return func\(|warnings\.warn\()|\[[\d: ,-]+\] \[INFO\] \[launch\.py")
PORT_TAKEN = re.compile(r"address already in use|EADDRINUSE", re.I)
RANK_EXIT = re.compile(r"exits with return code = -(\d+)")
# An exception's own line in vLLM's log, after `(Name pid=1)` and `ERROR date time [file:line]`.
VLLM_ERROR = re.compile(r"(?:^|[])] )((?:\w+\.)*\w*(?:Error|Exception): .+)")


def lines_of(log: Path, start: int = 0) -> list[str]:
    """The lines from byte `start` on."""
    with open(log, "rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace").splitlines()


def tail_of(log: Path, start: int = 0) -> str:
    """The last lines that aren't blank or `NOISE`, from byte `start` on, indented."""
    shown = [line for line in lines_of(log, start) if line.strip() and not NOISE.match(line)]
    return "\n".join(f"    {line}" for line in shown[-TAIL_LINES:])


def rank_error(log: Path, start: int = 0) -> str | None:
    """The error that the ranks of a stage reported; None if there is none.

    Rank 0's error has no rank tag and comes first: the others' may only say that rank 0 failed.
    """
    errors = [line.split(ERROR_PREFIX, 1)[1] for line in lines_of(log, start) if ERROR_PREFIX in line]
    return next((error for error in errors if not error.startswith(RANK_TAG)), errors[0] if errors else None)


def port_was_taken(log: Path) -> bool:
    """Whether a process ended because another listened on a port that it was to bind."""
    return any(PORT_TAKEN.search(text) for text in lines_of(log))


def ended_by_signal(log: Path, start: int = 0) -> str | None:
    """The signal by which a rank ended, as DeepSpeed's launcher wrote; None if there was none."""
    found = [match[1] for text in lines_of(log, start) if (match := RANK_EXIT.search(text))]
    return next((signal.Signals(int(number)).name for number in found if int(number) < signal.NSIG), None)


def server_error(log: Path) -> str:
    """The first exception in vLLM's log, and the log's last lines."""
    first = _first_exception(lines_of(log))
    return f"{f'first error: {first}; ' if first else ''}its log is {log} and ends\n{tail_of(log)}"


def _first_exception(lines: list[str]) -> str | None:
    for number, line in enumerate(lines):
        if found := VLLM_ERROR.search(line):
            # pydantic names the cause in the line below.
            cause = lines[number + 1 : number + 2] if "validation error" in found.group(1) else []
            return " ".join([found.group(1), *(re.sub(r"^\(\w+ pid=\d+\)", "", c).strip() for c in cause)])
    return None
