"""Work that one rank does for all: rank 0 calls, every rank gets the JSON result, or raises what rank 0 raised.

Without this the other ranks would wait in a collective for a rank 0 that has long failed. While rank 0 works, for
hours perhaps, the others wait on the process group's store, not in a collective, whose time-out (dist.timeout_s) a
slow rollout would trip; that rank 0 lives is its watchdog's business (issue 5).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nopsd.engine.distributed import Ranks
from nopsd.errors import UserError


def from_main(ranks: Ranks, call: Callable[[], Any]) -> Any:
    """`call()` of rank 0 (a JSON value) on every rank; its failure is raised everywhere. Collective."""
    outcome: dict[str, Any] = {}
    failure: Exception | None = None
    if ranks.is_main:
        try:
            outcome = {"value": call()}
        except Exception as error:  # told to all ranks, then raised
            failure = error
            outcome = {"error": f"{error}", "user": isinstance(error, UserError), "type": type(error).__name__}
    ranks.after_main()
    outcome = ranks.broadcast_json(outcome)
    if failure is not None:
        raise failure
    if "error" in outcome:
        if not outcome["user"]:
            raise RuntimeError(f"rank 0 failed: {outcome['type']}: {outcome['error']}")
        told = UserError(outcome["error"])
        told.of_rank = 0
        raise told
    return outcome["value"]
