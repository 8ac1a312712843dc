"""Which of several ranks' failures is the root cause, and the message for the user. Pure.

In: what sentinels and the coordinator saw of ranks (`Failure`). Out: one of them, and its message.
When one rank ends, the others' collectives fail within milliseconds: their errors are consequences.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Errors of torch, gloo and NCCL when another rank has ended. An error of ours about a server may use the same words.
CONSEQUENCE = re.compile(
    r"connection (was )?(closed|reset|refused)|closed by peer|broken pipe|timed? ?out|gloo|nccl|remote process exited"
    r"|distbackenderror|distnetworkerror",
    re.I,
)
ECHO = re.compile(r"another rank failed|rank 0 failed", re.I)
AGAIN = "the same command continues from what is done"
# Errors of the kernel, Python and torch's writer that the user can fix, with what to do.
REMEDIES = (
    (
        re.compile(r"no space left|disk quota|file too large|failed writing file|file write failed", re.I),
        "the disk it writes to is full there, or a quota or limit is reached: free some (`df -h`, `ulimit -f`)",
    ),
    (
        re.compile(r"eaddrinuse|address already in use", re.I),
        "a process there listens on the ranks' port already, left over perhaps: `ss -ltnp` names it",
    ),
)


@dataclass(frozen=True)
class Failure:
    """One rank's end, as far as it is known.

    `kind`: vanished (its process ended without a message), raised (an exception), user_error (an error for the user),
    hung (its process doesn't run), silent (no heartbeat from its host), absent (it never connected). `at`: stage and
    place in the code.
    """

    kind: str
    rank: int
    host: str
    at: str = ""
    message: str = ""

    @property
    def has_message(self) -> bool:
        return self.kind in ("raised", "user_error")


def find_root_cause(failures: Sequence[Failure]) -> Failure:
    """The failure that the others follow from; `failures` in the order in which they were noticed."""
    for failure in failures:
        if not is_consequence(failure):
            return failure
    return failures[0]


def is_consequence(failure: Failure) -> bool:
    """Whether its message means no more than that another rank has ended."""
    if not failure.has_message:
        return False
    return bool(ECHO.search(failure.message) or (failure.kind == "raised" and CONSEQUENCE.search(failure.message)))


def describe(failure: Failure, heartbeat_s: float) -> str:
    """What happened, on which host, in which phase, and what to do."""
    who = f"rank {failure.rank} on {failure.host}"
    where = f" (in {failure.at})" if failure.at else ""
    if failure.has_message:
        return f"{who} failed{where}: {failure.message}{_remedy(failure.message)}"
    if failure.kind == "hung":
        return (
            f"{who} has not run for {heartbeat_s:g} s{where}; {failure.message}: all ranks were ended. Check what "
            f"holds it on {failure.host} (a debugger, SIGSTOP, a dead file system); {AGAIN}"
        )
    if failure.kind == "silent":
        return (
            f"nothing was heard from {who} for {heartbeat_s:g} s{where}: its host or the network to it is down; all "
            f"ranks were ended. Check `ssh {failure.host}`; {AGAIN}"
        )
    if failure.kind == "absent":
        return (
            f"{who} never reported: its process did not start there, or can't reach this host; all ranks were ended. "
            f"Check `ssh {failure.host}` and firewalls between the hosts; {AGAIN}"
        )
    return (
        f"{who} was killed, or crashed{where}: all ranks were ended. If the kernel killed it for lack of memory, "
        f"`dmesg` on {failure.host} shows it; {AGAIN}"
    )


def _remedy(message: str) -> str:
    if AGAIN in message or "start again" in message:  # it has a remedy already
        return ""
    return next((f"; {todo}; {AGAIN}" for cause, todo in REMEDIES if cause.search(message)), "")
