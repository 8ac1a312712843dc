"""Rollout servers that outlive a run: `nopsd compare` starts them once for all of its runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from nopsd.config import Config, to_plain
from nopsd.rollout.service import RolloutService
from nopsd.run.progress import WaitsFor, unsaid
from nopsd.run.session import Session


class ServerCache:
    """The rollout servers of all runs: started when first needed, again where a run asks for other ones."""

    def __init__(self, root: Path, name: str = "server") -> None:
        """`name`: of the subfolder that their logs go to."""
        self.folder = root / name
        self._session: Session | None = None
        self._serves: Any = None

    def client(self, config: Config, waits_for: WaitsFor = unsaid) -> RolloutService:
        """A client of servers of this base model and these server settings. They may hold any run's weights.
        `waits_for`: around their start."""
        tree = to_plain(config)
        wanted = [tree["model"], tree["server"], tree["rollout"]]
        if self._session is None or self._serves != wanted:
            self.close()
            self._session, self._serves = Session(replace(config, run_dir=str(self.folder))), wanted
        self._session.waits_for = waits_for
        return self._session.client()

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None

    def __enter__(self) -> ServerCache:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class CachedServerSession(Session):
    """A run's session whose servers outlive it."""

    def __init__(self, config: Config, servers: ServerCache) -> None:
        super().__init__(config)
        self.servers = servers

    def client(self) -> RolloutService:
        return self.servers.client(self.config, self.waits_for)

    def close(self) -> None:
        """The servers are the cache's."""
