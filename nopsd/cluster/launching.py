"""Around one stage's ranks: files that they need, the coordinator that hears them, and what is said of a failure.

In: `Plan`, the run's `launch` folder, what ranks must know (the rollout server's URL and key). Out: the command, its
environment, and, when a rank is lost, `failure()`. Everything secret is removed from the folder at the end.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from nopsd.cluster.commands import Plan, runner_environment, shown, stage_command
from nopsd.cluster.coordinator import Coordinator
from nopsd.cluster.hostfile import hostfile_text, hosts_by_rank
from nopsd.cluster.launch_file import VARIABLE, LaunchFile, passed_on, write_env_file, write_launch_file
from nopsd.cluster.rank import address_towards
from nopsd.cluster.sentinel import LAST_WORDS_S
from nopsd.cluster.verdict import Failure, sentence

LOOPBACK = "127.0.0.1"
ENDING_S = LAST_WORDS_S + 2.0  # for ranks to end after a verdict, before what started them is killed


def write_files(plan: Plan, folder: Path, environment: Mapping[str, str], content: LaunchFile) -> Path:
    """launch.json, env and, where some are left out, the hostfile. Returns launch.json's absolute path."""
    file = folder.absolute() / "launch.json"
    write_launch_file(file, content)
    if plan.env_file is not None:
        write_env_file(Path(plan.env_file), file, plan.launcher, environment)
    if plan.hostfile == str(folder.absolute() / "hostfile"):
        Path(plan.hostfile).write_text(hostfile_text(plan.hosts))
    return file


class Launching:
    """Use as a context manager around the runner's process. `environment`: what it and the ranks are to have."""

    def __init__(self, plan: Plan, folder: Path, environment: Mapping[str, str], heartbeat_s: float) -> None:
        self.plan, self.folder, self.heartbeat_s = plan, folder, heartbeat_s
        self.environment = {**environment, **runner_environment(plan)}
        self._coordinator: Coordinator | None = None
        self._noticed: float | None = None

    def __enter__(self) -> Launching:
        plan, content = self.plan, {"environment": self._for_ranks()}
        if self.heartbeat_s and (plan.world > 1 or plan.several):
            key, address = secrets.token_hex(32), self._own_address()
            hosts = hosts_by_rank(plan.hosts)
            self._coordinator = Coordinator(address, plan.world, key, self.heartbeat_s, hosts).start()
            where = {"address": address, "port": self._coordinator.port, "key": key, "heartbeat_s": self.heartbeat_s}
            content |= where  # type: ignore[arg-type]
        self._file = write_files(plan, self.folder, self.environment, LaunchFile(**content))  # type: ignore[arg-type]
        self.environment[VARIABLE] = str(self._file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._coordinator is not None:
            self._coordinator.close()
        kept = {k: v for k, v in self._for_ranks().items() if not k.startswith("NOPSD_")}
        write_launch_file(self._file, LaunchFile(environment=kept))

    def command(self, stage: str, config_path: Path) -> list[str]:
        return stage_command(self.plan, stage, config_path)

    def shown(self, stage: str, config_path: Path) -> str:
        return shown(self.command(stage, config_path), runner_environment(self.plan))

    def lost(self) -> bool:
        """Whether a rank has failed and the others have had their time to end."""
        if self._coordinator is None or self._coordinator.verdict is None:
            return False
        self._noticed = self._noticed or time.monotonic()
        return time.monotonic() - self._noticed > ENDING_S

    def failure(self) -> Failure | None:
        """The first cause, once there is a verdict."""
        return None if self._coordinator is None else self._coordinator.verdict

    def words(self, failure: Failure) -> str:
        return sentence(failure, self.heartbeat_s)

    @property
    def unfinished(self) -> bool:
        """Some rank never took its leave: an exit code of 0 alone proves nothing (MPICH gives it for failures too)."""
        return self._coordinator is not None and not self._coordinator.done

    def _for_ranks(self) -> dict[str, str]:
        """On this host they inherit what we have; elsewhere they read it."""
        if not self.plan.several:
            return {}
        meeting = {"MASTER_ADDR": self.plan.master_addr, "MASTER_PORT": str(self.plan.master_port)}
        return passed_on(self.environment) | meeting

    def _own_address(self) -> str:
        """The address at which the other hosts find us; no other is listened on."""
        if not self.plan.several:
            return LOOPBACK
        return address_towards(self.plan.hosts[-1].name)
