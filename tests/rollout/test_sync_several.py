"""A weight sync to several servers, one of them gone or back: if these fail, one lost host ends a run, or a server
that missed a sync answers with old weights. The other server is the real one of conftest.py."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from nopsd.cluster.servers.local import VllmServer
from nopsd.config import SamplingConfig, ServerConfig
from nopsd.errors import ServerError, StaleWeightsError
from nopsd.rollout import gloo_sender
from nopsd.rollout.client import RolloutClient, UnansweredError
from nopsd.rollout.pool import RolloutPool
from nopsd.rollout.served_weights import verify_served
from nopsd.rollout.weight_sums import WeightSum
from nopsd.rollout.weight_sync import HALF_UPDATED, WeightSync, load_folder, open_weight_sync
from tests.rounding import LOGPROB

RESPONSES = [[40, 41, 42, 43, 44], [300, 7], [500, 501, 502]]


def config(backend: str = "disk") -> ServerConfig:
    return ServerConfig(weight_sync=backend, sync_bucket_mib=1, sync_timeout_s=60)


class Fake(RolloutClient):
    """A server in miniature: keeps the order of what is asked of it, and fails at `fails_at`."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "key", 5.0, ())
        self.asked: list[str] = []
        self.version, self.fails_at = 0, ""

    def request(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        timeout_s: float | None = None,
        retry: bool = False,
    ) -> dict[str, Any]:
        self.asked.append(path)
        if self.fails_at and path.startswith(self.fails_at):
            raise UnansweredError(f"{self.url} is gone at {path}")
        if path == "/update_weight_version":
            assert body is not None
            self.version = int(body["new_version"])
        return {"weight_version": str(self.version)} if path == "/weight_info" else {}

    def max_model_len(self) -> int:
        return 64

    def weight_sums(self) -> list[list[WeightSum]]:
        return []

    def score_one(self, prompt: list[int], response: list[int]) -> list[float]:
        """Whether the server has taken an update is read from such log-probs."""
        return [-1.0] * len(response)


@pytest.fixture
def fakes() -> tuple[RolloutPool, Fake, Fake]:
    a, b = Fake("http://a"), Fake("http://b")
    return RolloutPool([a, b]), a, b


def pushed(pool: RolloutPool, model: torch.nn.Module) -> WeightSync:
    return open_weight_sync(model, pool, config(), rank=0, device="cpu")


PHASES = ["/health", "/pause", "/update_weight_version", "/collective_rpc", "/reset_prefix_cache", "/resume"]


@pytest.mark.parametrize("phase", [*PHASES, "/weight_info"])
def test_a_server_lost_in_any_phase_is_dropped_and_the_rest_go_on(
    phase: str, fakes: Any, model: torch.nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    pool, a, b = fakes
    sync = pushed(pool, model)
    b.fails_at = phase
    sync.push(1)
    assert pool.policy_versions() == {"http://a": 1}
    assert [p.split("?")[0] for p in a.asked if p != "/weight_info"] == [
        *PHASES[:4],
        "/update_weight_version",
        *PHASES[4:],
    ]
    assert "http://b is lost" in caplog.text


def test_a_server_lost_amid_the_update_is_left_at_no_version(fakes: Any, model: torch.nn.Module) -> None:
    """At its old version with half of the new weights it could pass for whole."""
    pool, a, b = fakes
    sync = pushed(pool, model)
    b.fails_at = "/collective_rpc"
    sync.push(1)
    assert b.version == HALF_UPDATED


def test_a_server_that_is_back_gets_the_next_push(fakes: Any, model: torch.nn.Module) -> None:
    pool, a, b = fakes
    sync = pushed(pool, model)
    b.fails_at = "/"
    sync.push(1)
    sync.push(2)
    assert len(pool.servers()) == 1
    b.fails_at = ""
    sync.push(3)
    assert pool.policy_versions() == {"http://a": 3, "http://b": 3}


def test_one_that_is_back_and_fails_again_does_no_harm(fakes: Any, model: torch.nn.Module) -> None:
    pool, a, b = fakes
    sync = pushed(pool, model)
    b.fails_at = "/"
    sync.push(1)
    b.fails_at = "/collective_rpc"
    sync.push(2)
    assert pool.policy_versions() == {"http://a": 2}


def test_without_any_server_left_rank_host_phase_and_urls_are_named(fakes: Any, model: torch.nn.Module) -> None:
    pool, a, b = fakes
    sync = pushed(pool, model)
    a.fails_at = b.fails_at = "/collective_rpc"
    expected = rf"of version 1: rank 0 on {socket.gethostname()} failed in phase 'transfer': .*http://a .*http://b "
    with pytest.raises(ServerError, match=expected):
        sync.push(1)


def test_a_folder_goes_to_all_and_a_lost_one_is_dropped(fakes: Any, tmp_path: Path) -> None:
    pool, a, b = fakes
    (tmp_path / "model.safetensors").write_bytes(b"")
    load_folder(pool, tmp_path, 5)
    assert pool.policy_versions() == {"http://a": 5, "http://b": 5}
    b.fails_at = "/collective_rpc"
    load_folder(pool, tmp_path, 6)
    assert pool.policy_versions() == {"http://a": 6} and b.version == HALF_UPDATED


def test_verification_asks_every_server(fakes: Any) -> None:
    """Least-loaded routing would ask one, and a stale other one would go unseen."""
    pool, a, b = fakes
    for server, logprob in ((a, -1.0), (b, -1.5)):
        server.max_model_len = lambda: 64
        server.score = lambda prompts, responses, value=logprob: [[value] * len(r) for r in responses]
    with pytest.raises(StaleWeightsError, match="by up to 0.5 .* at http://b"):
        verify_served(pool, [[1]], [[2, 3]], [[-1.0, -1.0]], 1e-4)


# ---- with the real server


@pytest.fixture
def with_real(server: VllmServer, client: RolloutClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """The real server and one that takes part until its transfer."""
    other = Fake("http://other")
    pool = RolloutPool([client, other])
    met = gloo_sender.Channel

    class Channel(met):  # type: ignore[misc,valid-type]
        def __init__(self, one: RolloutClient, *given: Any) -> None:
            if isinstance(one, Fake):
                self.client = one
            else:
                super().__init__(one, *given)

        def begin(self, metas: Any) -> None:
            if isinstance(self.client, Fake):
                raise UnansweredError("gone")
            super().begin(metas)

    monkeypatch.setattr(gloo_sender, "Channel", Channel)
    yield pool, client


def test_the_real_server_takes_the_weights_though_another_one_is_lost(
    with_real: Any, model: torch.nn.Module, prompts: list[list[int]], response_logprobs: Callable[..., Any]
) -> None:
    pool, client = with_real
    sync = open_weight_sync(model, pool, config("gloo"), rank=0, device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.03
    sync.push(1)
    assert pool.servers() == [client]
    assert verify_served(pool, prompts, RESPONSES, response_logprobs(model, prompts, RESPONSES), LOGPROB) <= LOGPROB
    sync.close()


def test_nothing_of_a_sync_listens_on_other_interfaces(client: RolloutClient, model: torch.nn.Module) -> None:
    """torch's TCPStore left to itself listens on all of them, for as long as the group lives."""
    before = listening()
    sync = open_weight_sync(model, client, config("gloo"), rank=0, device="cpu")
    opened = listening() - before
    sync.close()
    assert opened and {address for address, _ in opened} == {"0100007F"}
    assert len(opened) <= 1, "gloo's own; the rendezvous store is closed"


def listening() -> set[tuple[str, str]]:
    """(address, port) in hexadecimal, of the TCP sockets that this process listens on."""
    inodes = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            inodes.add(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:  # the listing's own
            continue
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                address, port = fields[1].split(":")
                found.add((address, port))
    return found


def test_a_wrong_key_opens_nothing(server: VllmServer, client: RolloutClient) -> None:
    """Whoever reached /collective_rpc or /update_weights could run code in, or change, what we train on."""
    paths = client.request("GET", "/openapi.json")["paths"]
    headers = {"Authorization": f"Bearer {server.api_key}x"}
    with httpx.Client(base_url=server.url, headers=headers, trust_env=False) as http:
        for path, methods in paths.items():
            for method in methods if path != "/health" else ():
                assert http.request(method, path).status_code == 401, (method, path)
    assert client.policy_version() == 0


def test_a_shared_prefix_is_computed_once(client: RolloutClient) -> None:
    """A question's samples, and the system prompt of all, must not be read again for each."""

    def hits() -> float:
        key = {"Authorization": f"Bearer {client.api_key}"}
        lines = httpx.get(f"{client.url}/metrics", headers=key, trust_env=False).text.splitlines()
        return sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith("vllm:prefix_cache_hits_total"))

    client.reset_prefix_cache()
    before = hits()
    prompt = [5 + i % 50 for i in range(256)]
    client.generate([[*prompt, 7]], ["a"], SamplingConfig(n=4, max_new=2), seed=0)
    client.generate([[*prompt, 8]], ["b"], SamplingConfig(n=1, max_new=2), seed=0)
    assert hits() - before >= 128
