"""Work that rank 0 does for all ranks: every rank gets its JSON result, or raises what rank 0 raised.

Without this the other ranks would wait in a collective for a rank 0 that failed long ago. While rank 0 works, which
may take hours, the others wait on the process group's store and not in a collective, whose timeout (dist.timeout_s) a
slow rollout would exceed. The watchdog (nopsd.cluster.watchdog) checks that rank 0 is alive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nopsd.engine.distributed import Ranks
from nopsd.errors import UserError


def broadcast_from_rank0(ranks: Ranks, call: Callable[[], Any]) -> Any:
    """A value of rank 0 on every rank. Collective; waits without a timeout.

    Args:
        ranks: All that get it.
        call: Runs on rank 0 and returns a JSON value; its failure is raised on every rank.
    """
    outcome: dict[str, Any] = {}
    failure: Exception | None = None
    if ranks.is_main:
        try:
            outcome = {"value": call()}
        except Exception as error:  # sent to all ranks, then raised
            failure = error
            outcome = {"error": f"{error}", "user": isinstance(error, UserError), "type": type(error).__name__}
    ranks.wait_for_rank0()
    outcome = ranks.broadcast_json(outcome)
    if failure is not None:
        raise failure
    if "error" in outcome:
        if not outcome["user"]:
            raise RuntimeError(f"rank 0 failed: {outcome['type']}: {outcome['error']}")
        received = UserError(outcome["error"])
        received.of_rank = 0
        raise received
    return outcome["value"]
