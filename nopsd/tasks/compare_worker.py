"""One of the processes that work off a comparison side by side: `python -m nopsd.tasks.compare_worker PLAN NUMBER PID`.

In: plan.yaml, and on standard input a line for each piece of work, {"member": I} or {"extra": I}. Out: for each a line
on standard output, {"worked": whether there was something to do} or {"failed": why} or {"stopped": where}; what it
prints goes to standard error, which is the worker's log. Its devices are those of its environment and its CPU mask.
It ends when standard input does, and at once with process PID, which started it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from nopsd.cluster.lifeline import die_with_parent
from nopsd.errors import Stopped, UserError

INTERRUPTED = 130


def main(plan_file: str, number: str, parent: str) -> int:
    """Work until there is no more; the exit code."""
    die_with_parent(int(parent))
    for ending in (signal.SIGINT, signal.SIGTERM):  # a shell's background job ignores the first
        signal.signal(ending, interrupt_once)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        serve(Path(plan_file), number, answers)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def interrupt_once(number: int, frame: object) -> None:
    """The first signal interrupts; a later one can't disturb the end of servers and ranks."""
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)
    raise KeyboardInterrupt


def serve(plan_file: Path, number: str, answers: Any) -> None:
    """Do what standard input asks for; one set of servers serves all of it."""
    from nopsd.reporting.compare.plan import members, read_plan, read_plan_file
    from nopsd.run.server_cache import ServerCache
    from nopsd.tasks.compare import run_member
    from nopsd.tasks.extra_evaluations import extra_evaluations

    plan = read_plan(read_plan_file(plan_file), str(plan_file))
    runs = members(plan)
    with ServerCache(plan_file.parent, f"server-{number}") as servers:
        for line in sys.stdin:
            ((kind, index),) = json.loads(line).items()
            if kind == "member":
                name, work = runs[index].name, partial(run_member, runs[index], runs, servers)
            else:
                name, work = extra_evaluations(plan, runs, servers)[index]
            print(f"\n=== {name}", flush=True)
            print(json.dumps(answer_of(work, servers)), file=answers, flush=True)


def answer_of(work: Any, servers: Any) -> dict[str, Any]:
    """What to answer for one piece of work, once it is done."""
    try:
        return {"worked": work() is not False}
    except Stopped as stopped:
        return {"stopped": str(stopped)}
    except UserError as error:
        print(f"      FAILED: {error}", flush=True)
        servers.close()  # the next piece of work gets new ones
        return {"failed": str(error)}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
