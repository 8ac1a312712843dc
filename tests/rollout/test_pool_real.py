"""Two real servers under `nopsd serve`, stopped, revived and killed amid work: if this fails, a run of several hosts
loses samples or trains on samples of old weights, or leaves servers behind. Minutes long: `--soak`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch

from nopsd.config import SamplingConfig, ServerConfig
from nopsd.rollout.pool import RolloutPool, connect
from nopsd.rollout.served_weights import verify_served
from nopsd.rollout.weight_sync import open_weight_sync
from tests.rounding import LOGPROB

pytestmark = [pytest.mark.soak, pytest.mark.engine]
KEY = "the-key-of-both"
FOUR = SamplingConfig(n=4, temperature=1.0, top_p=1.0, top_k=-1, max_new=48)
COUNT = 200
RESPONSES = [[40, 41, 42, 43, 44], [300, 7], [500, 501, 502]]


class Serving:
    """`nopsd serve` of two servers; `servers`: its JSON line for each."""

    def __init__(self, folder: Path) -> None:
        arguments = ["rollout.servers_per_host=2", "server.max_model_len=512", "server.kv_cache_mib=64"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nopsd", "serve", "--preset", "lab", f"run_dir={folder / 'run'}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "NOPSD_SERVER_KEY"},
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{KEY}\n")
        self.process.stdin.flush()
        self.servers = [json.loads(self.process.stdout.readline()) for _ in range(2)]
        self.families = {one["url"]: family(one["pid"]) for one in self.servers}

    def signal(self, url: str, act: Callable[[psutil.Process], None]) -> None:
        """To the guardian and all below it."""
        for process in self.families[url]:
            try:
                act(process)
            except psutil.NoSuchProcess:
                pass


def family(pid: int) -> list[psutil.Process]:
    top = psutil.Process(pid)
    return [top, *top.children(recursive=True)]


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    made = Serving(tmp_path_factory.mktemp("serve"))
    yield made
    made.process.kill()
    made.process.wait()
    for processes in made.families.values():
        psutil.wait_procs(processes, timeout=40)


@pytest.fixture(scope="module")
def pool(serving: Serving) -> Iterator[RolloutPool]:
    config = ServerConfig(api_key=KEY, request_timeout_s=300)
    with connect(config, [one["url"] for one in serving.servers]) as made:
        assert isinstance(made, RolloutPool)
        yield made


def sample(
    pool: RolloutPool, prompts: Sequence[list[int]], version: int, amid: Callable[[], None] | None = None
) -> Any:
    """COUNT questions; `amid` happens once a quarter of them is answered."""
    asked = [[*prompts[i % len(prompts)], 5 + i] for i in range(COUNT)]
    started = threading.Event()

    def progress(done: int, total: int, **_: Any) -> None:
        if amid is not None and done >= total // 4 and not started.is_set():
            started.set()
            amid()

    rows = pool.generate(
        asked, [f"q{i}" for i in range(COUNT)], FOUR, seed=7, expected_version=version, progress=progress
    )
    assert [(r.uid, r.sample) for row in rows for r in row] == [(f"q{i}", s) for i in range(COUNT) for s in range(4)]
    return rows


def test_a_life_with_losses(
    serving: Serving,
    pool: RolloutPool,
    model: torch.nn.Module,
    prompts: list[list[int]],
    response_logprobs: Callable[..., list[list[float]]],
    record_property: Callable[[str, object], None],
) -> None:
    """Samples equal those of an undisturbed run, once each, with a server stopped, and with one killed; a stopped one
    that missed a sync isn't used until the next has reached it."""
    a, b = (one["url"] for one in serving.servers)
    config = ServerConfig(weight_sync="gloo", sync_bucket_mib=1, sync_timeout_s=90)
    undisturbed = sample(pool, prompts, 0)
    assert all(client.tokens_done(30) > 0 for client in pool.servers()), "both have worked"

    sync = open_weight_sync(model, pool, config, rank=0, device="cpu")
    times = {}
    began = {}

    def stop_b() -> None:
        began["stop"] = time.monotonic()
        serving.signal(b, lambda p: p.suspend())

    lost_at = _moment(pool, 1)
    assert sample(pool, prompts, 0, stop_b) == undisturbed
    times["stopped server noticed, s"] = lost_at() - began["stop"]
    assert [client.url for client in pool.servers()] == [a]

    perturb(model)
    sync.push(1)
    serving.signal(b, lambda p: p.resume())
    first = sample(pool, prompts, 1)
    assert [client.url for client in pool.servers()] == [a], "b holds version 0"
    assert first != undisturbed
    perturb(model)
    sync.push(2)
    assert [client.url for client in pool.servers()] == [a, b], "the push reached b again"
    trained = response_logprobs(model, prompts, RESPONSES)
    assert verify_served(pool, prompts, RESPONSES, trained, LOGPROB) <= LOGPROB

    second = sample(pool, prompts, 2)

    def kill_b() -> None:
        began["kill"] = time.monotonic()
        serving.signal(b, lambda p: p.kill())

    lost_at = _moment(pool, 1)
    assert sample(pool, prompts, 2, kill_b) == second
    times["killed server noticed, s"] = lost_at() - began["kill"]
    sync.push(3)
    assert pool.policy_versions() == {a: 3}
    sync.close()
    print(json.dumps(times))
    for name, value in times.items():
        record_property(name, round(value, 1))


def test_what_a_stranger_gets(serving: Serving) -> None:
    """Everything but /health is refused, at the server that is left; and the key isn't for `ps` to see."""
    url = serving.servers[0]["url"]
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}):
        for path in (
            "/pause",
            "/resume",
            "/collective_rpc",
            "/init_weight_transfer_engine",
            "/start_weight_update",
            "/update_weights",
            "/finish_weight_update",
            "/update_weight_version",
            "/reset_prefix_cache",
            "/weight_checker",
            "/v1/completions",
            "/weight_info",
            "/metrics",
            "/server_info",
        ):
            assert httpx.post(url + path, headers=headers, json={}, trust_env=False).status_code == 401, path
    for process in [psutil.Process(serving.process.pid), *psutil.Process(serving.process.pid).children(recursive=True)]:
        assert KEY not in " ".join(process.cmdline())


def test_the_end_of_input_ends_the_servers_alone(serving: Serving) -> None:
    """The ssh connection broke, or the trainer ended: no server may stay."""
    assert serving.process.stdin is not None
    serving.process.stdin.close()
    assert serving.process.wait(60) == 0
    for processes in serving.families.values():
        assert not psutil.wait_procs(processes, timeout=20)[1]


def perturb(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * parameter.std() * torch.randn_like(parameter)


def _moment(pool: RolloutPool, left: int) -> Callable[[], float]:
    """When the pool was down to so many servers: call what is returned once it was."""
    found: list[float] = []

    def look() -> None:
        while len(pool.servers()) > left:
            time.sleep(0.02)
        found.append(time.monotonic())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()

    def moment() -> float:
        thread.join(1)
        return found[0]

    return moment
