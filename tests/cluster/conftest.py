"""Fixtures: two separate hosts (`two_hosts`), and a head with ranks that only live (`start_group`), there or here."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.programs import require_program

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def load(name: str):
    """A module beside this file (tests are no package)."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def two_hosts(tmp_path_factory):
    """node1 and node2, one slot each, for the whole session; skipped with the reason where they can't be made."""
    hosts = load("hosts")
    for program, package in hosts.PROGRAMS.items():
        require_program(program, package)
    if reason := hosts.lacking():
        pytest.skip(reason)
    with hosts.Hosts(tmp_path_factory.mktemp("cluster") / "hosts") as up:
        yield up


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **more}


@dataclass
class Group:
    """A head and its ranks. `ranks[i]` leads a session; `pid(i)` is the rank's own process."""

    folder: Path
    head: subprocess.Popen
    ranks: list[subprocess.Popen] = field(default_factory=list)

    def pid(self, rank: int) -> int:
        return self.ranks[rank].pid

    def result(self, timeout: float = 60.0) -> dict:
        """The head's last line; the test fails if the head doesn't end in time."""
        output, _ = self.head.communicate(timeout=timeout)
        return json.loads(output.splitlines()[-1])

    def ended_after(self, since: float, bound: float) -> float:
        """Seconds until every rank and sentinel was gone; fails if any lives on after `bound`."""
        deadline = since + bound
        for process in self.ranks:
            process.wait(max(0.1, deadline - time.monotonic()))
        while alive := sentinels_of(self.folder):
            assert time.monotonic() < deadline, f"orphans: {alive}"
            time.sleep(0.05)
        return time.monotonic() - since


def sentinels_of(folder: Path) -> list[int]:
    """Sentinels that this test's ranks started."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "nopsd.cluster.sentinel" in line:
            try:
                if process.environ().get("GROUP_FOLDER") == str(folder):
                    found.append(process.pid)
            except psutil.Error:
                continue
    return found


@pytest.fixture
def start_group(tmp_path) -> Iterator[Callable[..., Group]]:
    """`start_group(heartbeat_s=3.0, world=2)`: all on this host, without a network; ends what is left of it."""
    groups: list[Group] = []

    def start(heartbeat_s: float = 3.0, world: int = 2, launch=None, hosts=None) -> Group:
        names = hosts or ["localhost"] * world
        popen = launch or (lambda host, command, env, **more: subprocess.Popen(command, env=env, **more))
        env = environment(GROUP_FOLDER=str(tmp_path))
        command = [sys.executable, str(HERE / "worker_head.py"), str(tmp_path), str(heartbeat_s), *names]
        head = popen(names[0], command, env=env, stdout=subprocess.PIPE, text=True)
        group = Group(tmp_path, head)
        groups.append(group)
        assert json.loads(head.stdout.readline())["up"]
        for rank, host in enumerate(names):
            own = {**env, "RANK": str(rank), "WORLD_SIZE": str(world), "NOPSD_LAUNCH": str(tmp_path / "launch.json")}
            command = [sys.executable, str(HERE / "worker_rank.py"), str(tmp_path)]
            group.ranks.append(popen(host, command, env=own))
        deadline = time.monotonic() + 30
        while len(list(tmp_path.glob("pid.*"))) < world:
            assert time.monotonic() < deadline, "the ranks did not start"
            time.sleep(0.05)
        return group

    yield start
    for group in groups:
        for process in [group.head, *group.ranks]:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
