"""Which of several failures was the first cause, and what to say about it. Pure.

In: what sentinels and the coordinator saw of ranks (`Failure`). Out: one of them, and a sentence for the user.
When one rank goes, the others' collectives fail too, within milliseconds: their words are consequences.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Words of torch, gloo and NCCL when another rank has gone. An error of ours may speak of a server in the same ones.
CONSEQUENCE = re.compile(
    r"connection (was )?(closed|reset|refused)|closed by peer|broken pipe|timed? ?out|gloo|nccl|remote process exited"
    r"|distbackenderror|distnetworkerror",
    re.I,
)
ECHO = re.compile(r"another rank failed|rank 0 failed", re.I)
AGAIN = "the same command continues from what is done"
# Words of the kernel, Python and torch's writer for troubles that the user can mend, with what to do.
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

    `kind`: vanished (its process ended without a word), raised (an exception), said (an error for the user), hung (its
    process doesn't run), silent (nothing heard from its host), absent (never reported). `at`: stage and place in the
    code.
    """

    kind: str
    rank: int
    host: str
    at: str = ""
    words: str = ""

    @property
    def speaks(self) -> bool:
        return self.kind in ("raised", "said")


def first_cause(failures: Sequence[Failure]) -> Failure:
    """The failure that the others follow from; `failures` in the order in which they were noticed."""
    for failure in failures:
        if not is_consequence(failure):
            return failure
    return failures[0]


def is_consequence(failure: Failure) -> bool:
    """Whether its words say no more than that another rank has gone."""
    if not failure.speaks:
        return False
    return bool(ECHO.search(failure.words) or (failure.kind == "raised" and CONSEQUENCE.search(failure.words)))


def sentence(failure: Failure, heartbeat_s: float) -> str:
    """What happened, on which host, in which phase, and what to do."""
    who = f"rank {failure.rank} on {failure.host}"
    where = f" (in {failure.at})" if failure.at else ""
    if failure.speaks:
        return f"{who} failed{where}: {failure.words}{_remedy(failure.words)}"
    if failure.kind == "hung":
        return (
            f"{who} has not run for {heartbeat_s:g} s{where}; {failure.words}: all ranks were ended. Look what holds "
            f"it on {failure.host} (a debugger, SIGSTOP, a dead file system); {AGAIN}"
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
        f"{who} was killed, or crashed{where}: all ranks were ended. If it was the kernel for want of memory, "
        f"`dmesg` on {failure.host} says so; {AGAIN}"
    )


def _remedy(words: str) -> str:
    if AGAIN in words or "start again" in words:  # it came with one
        return ""
    return next((f"; {todo}; {AGAIN}" for cause, todo in REMEDIES if cause.search(words)), "")
