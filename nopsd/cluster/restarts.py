"""Start a command again after a host, a rank or a server was lost: what is worth a restart, and on which hosts.

In: the configuration and the call to be made. Out: nothing, or the error that a restart would not cure. A restart
continues from the newest checkpoint; with `min_nodes` it may leave out hosts that are unreachable.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from nopsd.cluster.hostfile import hostfile_text, read_hostfile
from nopsd.cluster.planning import make_plan
from nopsd.cluster.preflight import HostsError
from nopsd.cluster.root_cause import CONSEQUENCE, Failure
from nopsd.cluster.stage_launcher import RankLostError
from nopsd.config import Config
from nopsd.errors import ServerError, UserError
from nopsd.files import write_atomic

# In errors about servers that were healthy and then ended, were restarted, or stopped accepting weights.
SERVER_LOST = re.compile(r"no rollout server is left|holds policy version|weight sync of version")


def run_with_restarts(
    run: Callable[[Config, str | None], None], config: Config, redo: str | None, restarts: int, min_nodes: int | None
) -> None:
    """`run(config, redo)`, and after the loss of a rank or host again, on the hosts left.

    Args:
        run: The work; it continues what is there.
        config: The run's; each time without the hosts that were lost.
        redo: A stage to redo, the first time.
        restarts: Times that it is run again, at most.
        min_nodes: Hosts that must be left to train; None: no host may be left out.
    """
    for left in range(restarts, -1, -1):
        try:
            return run(config, redo)
        except (RankLostError, HostsError, ServerError) as error:
            if left == 0 or not should_restart(error):
                raise
            print(f"nopsd: {error}\nnopsd: starting again from what is done ({left} restarts left)", file=sys.stderr)
            lost = error.hosts if isinstance(error, HostsError) else _unreachable(config)
            config, redo = without_hosts(config, lost, min_nodes), None


def should_restart(error: UserError) -> bool:
    """Whether the same command may succeed the next time."""
    if isinstance(error, RankLostError):
        return is_transient(error.failure)
    return isinstance(error, HostsError) or bool(SERVER_LOST.search(str(error)))


def is_transient(failure: Failure) -> bool:
    """Whether a failure need not come again: a rank's own error does, unless it is of the network or of a server.
    Servers that the command started are started again with it."""
    message = failure.message
    return failure.kind != "raised" or bool(CONSEQUENCE.search(message)) or bool(SERVER_LOST.search(message))


def _unreachable(config: Config) -> Sequence[str]:
    try:
        make_plan(config, Path(config.run_dir))
    except HostsError as error:
        return error.hosts
    return ()


def without_hosts(config: Config, lost: Sequence[str], min_nodes: int | None) -> Config:
    """The configuration without these hosts, whether they train or serve.

    Args:
        config: The run's.
        lost: Hosts by name.
        min_nodes: Hosts that must be left to train; None: no host may be left out.

    Raises:
        UserError: Too few would be left to train, or none to serve.
    """
    if not lost:
        return config
    assert config.dist.hostfile is not None
    hosts = [host for host in read_hostfile(config.dist.hostfile) if host.name not in lost]
    serving = [name for name in config.rollout.hosts if name not in lost]
    if config.rollout.hosts and not serving:
        raise UserError(f"lost for good: {', '.join(lost)}; no host of rollout.hosts is left: name others, or none")
    training = [host for host in hosts if host.name not in serving]
    if min_nodes is None or len(training) < min_nodes:
        allowed = "give --min-nodes to go on without" if min_nodes is None else f"--min-nodes={min_nodes} forbids less"
        raise UserError(f"lost for good: {', '.join(lost)}; {len(training)} hosts are left, {allowed}")
    file = Path(config.run_dir).absolute() / "launch" / "hostfile.left"
    write_atomic(file, hostfile_text(hosts))
    print(f"nopsd: going on without {', '.join(lost)}: {file}", file=sys.stderr)
    rollout = replace(config.rollout, hosts=serving)
    return replace(config, dist=replace(config.dist, hostfile=str(file)), rollout=rollout)
