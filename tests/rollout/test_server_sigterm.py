"""A scheduler's SIGTERM reaches the server too: it must answer until the command that started it is done with it."""

from __future__ import annotations

import contextlib
import signal

import psutil
import pytest

from nopsd.cluster.servers.local import VllmServer
from nopsd.config import SamplingConfig
from nopsd.rollout.client import RolloutClient

pytestmark = [pytest.mark.slow, pytest.mark.engine]


def test_sigterm_to_every_process_of_the_server_ends_none(
    server: VllmServer, client: RolloutClient, prompts: list[list[int]]
):
    """Broken if a step that is to be finished and saved loses its server: no probe, no push, no checkpoint."""
    guardian = psutil.Process(server.pid)
    family = [guardian, *guardian.children(recursive=True)]
    assert len(family) >= 3
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
    rows = client.generate(prompts[:1], ["a"], SamplingConfig(n=1, max_new=4), seed=1)
    assert len(rows[0][0].response_ids) >= 1
    assert all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
