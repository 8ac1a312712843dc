"""Several servers behind one client: if these fail, samples are lost, doubled, or come from the wrong weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from nopsd.config import Config, SamplingConfig, ServerConfig, load_config
from nopsd.errors import ConfigError, ServerError, StaleWeightsError
from nopsd.rollout import pool as pool_module
from nopsd.rollout import watch
from nopsd.rollout.pool import RolloutPool, connect, server_urls
from nopsd.rollout.served_weights import check_same_weights
from tests.rollout.scripted import Scripted, client_answered_by

TWO = SamplingConfig(n=2, max_new=4)
UIDS = [f"q{i}" for i in range(40)]
PROMPTS = [[5, i] for i in range(40)]


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[RolloutPool, Scripted, Scripted]]:
    monkeypatch.setattr(watch, "PROBE_EVERY_S", 0.05)
    monkeypatch.setattr(watch, "PROBE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(pool_module, "PROBE_TIMEOUT_S", 0.1)
    a, b = Scripted("http://a"), Scripted("http://b")
    yield RolloutPool([a.client, b.client]), a, b
    a.state = b.state = "dead"  # lets go of threads that hang in one


def sample(pool: RolloutPool, **given: Any) -> list[list[Any]]:
    return pool.generate(PROMPTS, UIDS, TWO, seed=1, **given)


def whole(rows: list[list[Any]]) -> None:
    """Every sample once, in its place, with the ids its own prompt leads to."""
    assert [(r.uid, r.sample) for row in rows for r in row] == [(u, s) for u in UIDS for s in range(2)]
    assert all(r.response_ids == [7, r.sample, *p] for row, p in zip(rows, PROMPTS, strict=True) for r in row)


def test_the_load_is_shared_and_a_questions_samples_stay_together(two: Any) -> None:
    """n=2 is one request: split over servers, the prompt would be read twice."""
    pool, a, b = two
    whole(sample(pool, expected_version=0))
    assert len(a.done) + len(b.done) == len(UIDS) and min(len(a.done), len(b.done)) > 10


def test_a_slow_server_gets_less_and_no_server_more_than_its_bound(two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Round robin would have the fast server wait for the slow one; without a bound a queue hides the load."""
    pool, a, b = two
    monkeypatch.setattr(pool_module, "SEQUENCES_IN_FLIGHT", 6)
    b.delay_s = 0.05
    whole(sample(pool))
    assert len(a.done) > 2 * len(b.done)
    assert a.most_in_flight <= 3 and b.most_in_flight <= 3


def test_a_server_that_dies_amid_requests_costs_no_sample(two: Any, caplog: pytest.LogCaptureFixture) -> None:
    pool, a, b = two
    b.dies_after = 5
    whole(sample(pool, expected_version=0))
    assert len(b.done) == 5 and len(a.done) == len(UIDS) - 5, "what was answered isn't asked again"
    assert [s.url for s in pool.servers()] == ["http://a"]
    assert "http://b is lost" in caplog.text and "going on with 1" in caplog.text


def test_a_broken_engine_is_the_servers_fault_only_if_it_is_unhealthy(two: Any) -> None:
    """A request that no server can answer must not take them all down one by one."""
    pool, a, b = two
    a.state = b.state = "broken"
    with pytest.raises(ServerError, match="answered 500"):
        sample(pool)
    assert len(pool.servers()) == 2


def test_when_none_is_left_each_is_named(two: Any) -> None:
    pool, a, b = two
    a.dies_after = b.dies_after = 3
    with pytest.raises(ServerError, match=r"no rollout server is left: http://a \(.*\); http://b \(.*restart them"):
        sample(pool)


@pytest.mark.parametrize("how", ["hung", "engine hung"])
def test_a_server_that_hangs_is_noticed_long_before_the_deadline(two: Any, how: str) -> None:
    """A stopped process keeps its connections open: the requests alone would wait for request_timeout_s."""
    _, a, b = two
    pool = RolloutPool([a.client, b.client], 0.5)
    b.dies_after, b.dies_as = 5, how  # by what it answered, not by the clock: a quick machine is done before any timer
    start = time.monotonic()
    whole(sample(pool, expected_version=0))
    assert time.monotonic() - start < 8 and [s.url for s in pool.servers()] == ["http://a"]


def test_versions_must_agree_and_the_stale_server_is_named(two: Any) -> None:
    pool, a, b = two
    a.version = "4"
    with pytest.raises(StaleWeightsError, match="http://b holds policy version 0, expected 4"):
        pool.policy_version()
    with pytest.raises(StaleWeightsError, match="http://b holds policy version 0, expected 4"):
        sample(pool, expected_version=4)
    b.version = "4"
    assert pool.policy_version() == 4


def test_a_server_that_comes_back_is_used_only_with_the_right_weights(two: Any) -> None:
    """Restarted, it serves the base model under version 0: samples of it would be another policy's."""
    pool, a, b = two
    a.version = b.version = "3"
    b.dies_after = 0
    sample(pool, expected_version=3)
    b.state, b.dies_after = "up", None
    for version, weights in (("0", "w"), ("3", "changed"), ("3", "other")):
        b.version, b.weights = version, weights
        whole(sample(pool, expected_version=3))
        assert b.done == [], (version, weights)
    b.weights = "w"
    whole(sample(pool, expected_version=3))
    assert len(b.done) > 10


def test_a_server_that_comes_back_in_the_middle_is_left_alone(two: Any) -> None:
    """Its weights haven't been looked at."""
    pool, a, b = two
    a.delay_s = 0.01
    b.dies_after = 0

    def revive(done: int, total: int, **_: Any) -> None:
        b.state, b.dies_after = "up", None

    whole(sample(pool, progress=revive))
    assert b.done == []


def test_servers_of_unlike_models_are_refused_at_the_start(two: Any) -> None:
    """By checksum, or, where the build gives none of its packed layers, by what they answer."""
    pool, a, b = two
    b.weights = "v"
    with pytest.raises(StaleWeightsError, match=r"http://a and http://b hold other weights \(dp0:a"):
        pool.check()
    b.weights = "w"
    pool.check()
    b.client.weight_digests = dict  # type: ignore[method-assign]
    b.weights = "other"
    with pytest.raises(StaleWeightsError, match="differ by 2.5 on average"):
        check_same_weights(a.client, b.client)


def test_servers_sleep_after_rollouts_and_are_woken_by_what_needs_them() -> None:
    """Asleep at a request a server fails; awake during a training step the GPU holds its weights twice. One whose state
    isn't known is woken; a question for its version doesn't wake it; one that can't sleep isn't asked to."""
    asked: list[str] = []
    answers = {"/v1/models": {"data": [{"id": "m", "max_model_len": 64}]}, "/weight_info": {"weight_version": "0"}}

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url).removeprefix("http://a"))
        ids = [5, 6]
        choices = [{"index": i, "text": "t", "finish_reason": "stop"} for i in range(2)]
        completion = {"choices": [{**choice, "token_ids": [7], "prompt_token_ids": ids} for choice in choices]}
        return httpx.Response(200, json=completion if "completions" in asked[-1] else answers.get(asked[-1], {}))

    def calls(pool: RolloutPool) -> list[str]:
        asked.clear()
        pool.generate([[5, 6]], ["q"], TWO, seed=1)
        return [path for path in asked if path not in answers]

    slept, woken = "/sleep?level=1&mode=wait", "/wake_up"
    pool = RolloutPool([client_answered_by(handle, "http://a", "key", 30.0, (), True)])
    for _ in range(2):
        assert calls(pool) == [woken, "/v1/completions", slept]
    asked.clear()
    (server,) = pool.servers()
    pool.policy_version()
    assert asked == ["/weight_info"]
    server.pause()
    server.request("POST", "/start_weight_update")
    assert asked == ["/weight_info", woken, "/pause?mode=wait", "/start_weight_update"]
    assert calls(RolloutPool([client_answered_by(handle, "http://a", "key", 30.0, ())])) == ["/v1/completions"]


def test_the_window_is_the_smallest(two: Any) -> None:
    pool, a, b = two
    b.window = 32
    assert pool.max_model_len() == 32


def test_connect_takes_each_server_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL given twice, or with a slash, would be sent twice its share; and a single server is tried for longer."""
    monkeypatch.setattr(RolloutPool, "check", lambda self: None)
    one = connect(ServerConfig(api_key="k"), ["http://a/", "http://a"])
    several = connect(ServerConfig(api_key="k"), ["http://a", "http://b"])
    assert one.url == "http://a" and several.url == "http://a,http://b" and several.api_key == "k"
    assert one.servers()[0]._retry_delays_s is None and several.servers()[0]._retry_delays_s == (0.5,)


@pytest.mark.parametrize(
    ("how", "reason"),
    [("hung", "no answer to .* of /health"), ("engine hung", "no token in"), ("dead", "can't be reached")],
)
def test_the_loss_of_a_lone_server_ends_with_its_name(two: Any, how: str, reason: str) -> None:
    """Within stall_timeout_s; without the watch a stopped server is waited for until request_timeout_s, 10 minutes."""
    _, a, _ = two
    pool = RolloutPool([a.client], 0.5)
    a.dies_after, a.dies_as = 5, how
    start = time.monotonic()
    with pytest.raises(ServerError, match=rf"no rollout server is left: http://a \(.*{reason}.*restart them and run"):
        sample(pool)
    assert time.monotonic() - start < 8


def test_a_server_that_hangs_between_two_calls_is_named(two: Any) -> None:
    """The next call begins with its version: unless that has a deadline and a name, the only error is 'no end'."""
    _, a, b = two
    pool = RolloutPool([a.client, b.client], 0.5)
    assert pool.max_model_len() == 64  # remembered from then on
    b.state = "hung"
    whole(sample(pool, expected_version=0))
    assert [s.url for s in pool.servers()] == ["http://a"]
    a.state = "hung"
    with pytest.raises(ServerError, match=r"is left: http://a \(.*gave no answer to /weight_info within 0.5 s"):
        sample(pool, expected_version=0)


def test_the_last_server_may_be_late(two: Any) -> None:
    """A busy host misses three probes soon: of several servers that costs one, of a single one the whole run."""
    _, a, _ = two
    pool = RolloutPool([a.client], 60.0)
    a.dies_after, a.dies_as = 5, "hung"

    def come_back() -> None:
        while a.state != "hung":
            time.sleep(0.01)
        time.sleep(1.0)
        a.dies_after, a.state = None, "up"

    threading.Thread(target=come_back, daemon=True).start()
    whole(sample(pool, expected_version=0))
    assert pool.servers() == [a.client]


def test_a_straggler_is_asked_of_another_server_too(two: Any) -> None:
    """rollout.hedge_s: one slow server must not hold up the whole step; and no sample may come twice."""
    _, a, b = two
    pool = RolloutPool([a.client, b.client], 0.0, hedge_s=0.1)
    b.delay_s = 5.0
    start = time.monotonic()
    whole(sample(pool, expected_version=0))
    assert time.monotonic() - start < 4 and len(a.done) == len(UIDS)
    assert pool.servers() == [a.client, b.client], "slow isn't lost"


def test_without_a_hedge_nothing_is_asked_twice(two: Any) -> None:
    """It costs the second server's time, so it is only done if asked for; and it needs a second server."""
    pool, a, b = two
    b.delay_s = 0.7
    whole(sample(pool))
    assert len(a.done) + len(b.done) == len(UIDS)
    a.done.clear()
    a.delay_s = 0.3
    whole(sample(RolloutPool([a.client], 0.0, hedge_s=0.05)))
    assert len(a.done) == len(UIDS)


def test_where_the_servers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's URLs come before the configuration's; two places in the configuration contradict each other."""
    monkeypatch.delenv("NOPSD_SERVER_URL", raising=False)
    config = Config()
    assert server_urls(config) == []
    config = replace(config, rollout=replace(config.rollout, urls=["http://a", "http://b"]))
    assert server_urls(config) == ["http://a", "http://b"]
    monkeypatch.setenv("NOPSD_SERVER_URL", "http://c, http://d")
    assert server_urls(config) == ["http://c", "http://d"]
    with pytest.raises(ConfigError, match=r"server\.url and rollout\.urls"):
        load_config(None, ["server.url=http://a", "rollout.urls=[http://b]"])
