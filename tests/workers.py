"""How several pytest processes share the tests: a file stays on one worker, and files that share a server do too.

A pytest plugin (`-p tests.workers`), for pytest-xdist's own --dist loadgroup does nothing under pytest 9.2.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

# Started once a session at a cost: a test asks for one as a parameter.
SHARED_FIXTURES = re.compile(
    r"^def .*?[(,]\s*(two_hosts|engine_cases|lost|server|served_run|client)\s*[,:)]", re.M | re.S
)


@cache
def group_of(file: Path) -> str:
    """The files of a folder that share a costly fixture are one group, and so are those that share a peer's process;
    any other file is its own."""
    text = file.read_text()
    if "run_peer(" in text:
        return "peers"
    for function in re.split(r"^(?=def )", text, flags=re.M):
        head = function.split("):\n", 1)[0].split(") ->", 1)[0]
        if shared := SHARED_FIXTURES.match(head + ")"):
            return f"{file.parent}:{shared[1] if shared[1] in ('two_hosts', 'engine_cases', 'lost') else 'server'}"
    return str(file)


class Groups(LoadScopeScheduling):
    """Hands whole groups to workers, in the order of collection."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(self.config.rootpath / nodeid.split("::")[0])


@pytest.hookimpl
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Groups:
    """Asked by pytest-xdist for its scheduler."""
    return Groups(config, log)
