"""The files, environment and coordinator that one stage's ranks need while they run.

In: `Plan`, the run's `launch` folder, the ranks' environment (the rollout server's URL and key included). Out: the
command, its environment, and `failure()` once a rank is lost. Every secret is removed from the folder at the end.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from nopsd.cluster.coordinator import Coordinator
from nopsd.cluster.deepspeed_command import Plan, runner_environment, stage_command, typed_command
from nopsd.cluster.hostfile import hostfile_text, hosts_by_rank, ranks_of_each
from nopsd.cluster.launch_files import VARIABLE, LaunchFile, passed_on, write_env_file, write_launch_file
from nopsd.cluster.root_cause import Failure
from nopsd.cluster.sentinel import MESSAGE_WAIT_S
from nopsd.engine.ds_config import RANKS_OF_HOST
from nopsd.gpus import VARIABLE as DEVICES_VARIABLE
from nopsd.keys import is_secret, new_key
from nopsd.network import LOOPBACK, address_towards, hold_port

ENDING_S = MESSAGE_WAIT_S + 2.0  # for ranks to end after a failure, before the runner is killed


def ranks_environment(plan: Plan, environment: Mapping[str, str]) -> dict[str, str]:
    """What ranks on other hosts read from launch.json; {} on this host alone, where they inherit `environment`."""
    if not plan.several:
        return {}
    rendezvous = {"MASTER_ADDR": plan.master_addr, "MASTER_PORT": str(plan.master_port)}
    own = {RANKS_OF_HOST: str(ranks_of_each(plan.hosts))}
    return passed_on(environment) | rendezvous | own


def without_own(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without nopsd's own variables but for what the plan alone says, and without secrets."""
    own = {name for name in environment if name.startswith("NOPSD_") and name != RANKS_OF_HOST}
    return {name: value for name, value in environment.items() if name not in own and not is_secret(name)}


def write_files(plan: Plan, folder: Path, environment: Mapping[str, str], content: LaunchFile) -> Path:
    """Write launch.json, env and, where some hosts are left out, the hostfile.

    Args:
        plan: Where the ranks run.
        folder: RUN/launch.
        environment: The launching command's, of which env takes what must be set before Python starts.
        content: Of launch.json.

    Returns:
        launch.json's absolute path.
    """
    file = folder.absolute() / "launch.json"
    write_launch_file(file, content)
    if plan.env_file is not None:
        write_env_file(Path(plan.env_file), file, plan.launcher, environment)
    if plan.hostfile == str(folder.absolute() / "hostfile"):
        Path(plan.hostfile).write_text(hostfile_text(plan.hosts))
    return file


class LaunchContext:
    """Use as a context manager around the runner's process. `environment`: the runner's and the ranks'."""

    def __init__(self, plan: Plan, folder: Path, environment: Mapping[str, str], heartbeat_s: float) -> None:
        self.plan, self.folder, self.heartbeat_s = plan, folder, heartbeat_s
        self.environment = {**environment, **runner_environment(plan)}
        if plan.gpus:  # the command names them as the host counts them
            self.environment.pop(DEVICES_VARIABLE, None)
        self._coordinator: Coordinator | None = None
        self._failed_at: float | None = None
        self._held: socket.socket | None = None

    def __enter__(self) -> LaunchContext:
        if not self.plan.several:  # rank 0 binds the port seconds from now, when it has imported torch
            self._held = hold_port(LOOPBACK)
            self.plan = replace(self.plan, master_port=self._held.getsockname()[1])
        plan, content = self.plan, LaunchFile(ranks_environment(self.plan, self.environment))
        if self.heartbeat_s and (plan.world > 1 or plan.several):
            # No address but the one at which the other hosts reach this one is listened on.
            address = address_towards(plan.hosts[-1].name) if plan.several else LOOPBACK
            key, hosts = new_key(), hosts_by_rank(plan.hosts)
            self._coordinator = Coordinator(address, plan.world, key, self.heartbeat_s, hosts).start()
            port = self._coordinator.port
            content = replace(content, address=address, port=port, key=key, heartbeat_s=self.heartbeat_s)
        self._file = write_files(plan, self.folder, self.environment, content)
        self.environment[VARIABLE] = str(self._file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._coordinator is not None:
            self._coordinator.close()
        if self._held is not None:
            self._held.close()
        write_launch_file(self._file, LaunchFile(without_own(ranks_environment(self.plan, self.environment))))

    def command(self, stage: str, config_path: Path) -> list[str]:
        return stage_command(self.plan, stage, config_path)

    def typed(self, stage: str, config_path: Path) -> str:
        """The command as a user would type it."""
        return typed_command(self.command(stage, config_path), runner_environment(self.plan))

    def lost(self) -> bool:
        """Whether a rank has failed and the others have had their time to end."""
        if self.failure() is None:
            return False
        self._failed_at = self._failed_at or time.monotonic()
        return time.monotonic() - self._failed_at > ENDING_S

    def failure(self) -> Failure | None:
        """The root cause, once a rank has failed."""
        return None if self._coordinator is None else self._coordinator.root_cause

    @property
    def unfinished(self) -> bool:
        """Some rank never disconnected: an exit code of 0 alone proves nothing (MPICH gives it for failures too)."""
        return self._coordinator is not None and not self._coordinator.done

    def missing(self) -> list[str]:
        """Ranks that never reported: they ended while they were importing."""
        if self._coordinator is None:
            return []
        return self._coordinator.missing
