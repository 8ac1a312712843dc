"""The client against the real server: if these fail, training sees responses its policy did not give."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest
import torch

from nopsd.cluster.servers.local import VllmServer
from nopsd.config import SamplingConfig, ServerConfig
from nopsd.errors import ServerError, StaleWeightsError, UserError
from nopsd.rollout import client as client_module
from nopsd.rollout.client import RolloutClient, request_seed
from nopsd.rollout.pool import connect
from tests.rollout.scripted import client_answered_by
from tests.rounding import LOGPROB

WARM = SamplingConfig(n=4, temperature=1.5, top_p=1.0, top_k=-1, max_new=24)
UIDS = ["a", "b", "c"]


def test_samples_are_reproducible_and_independent_of_the_batch(client: RolloutClient, prompts: list[list[int]]) -> None:
    together = client.generate(prompts, UIDS, WARM, seed=3)
    alone = client.generate(prompts[1:2], UIDS[1:2], WARM, seed=3)
    assert alone[0] == together[1]
    assert [len(row) for row in together] == [4, 4, 4]
    assert [(r.uid, r.sample, r.policy_version) for r in together[2]] == [("c", i, 0) for i in range(4)]
    assert len({tuple(r.response_ids) for r in together[1]}) > 1, "samples of one prompt must differ"
    other = client.generate(prompts[1:2], UIDS[1:2], WARM, seed=4)
    assert [r.response_ids for r in other[0]] != [r.response_ids for r in alone[0]]


def test_one_sample_equals_the_first_of_many(client: RolloutClient, prompts: list[list[int]]) -> None:
    many = client.generate(prompts[:1], UIDS[:1], WARM, seed=3)[0]
    one = client.generate(prompts[:1], UIDS[:1], SamplingConfig(**{**WARM.__dict__, "n": 1}), seed=3)[0]
    assert one == many[:1] and one[0].seed == request_seed(3, "a")


def test_ids_finish_reasons_and_text(client: RolloutClient, prompts: list[list[int]], model: torch.nn.Module) -> None:
    eos = model.config.eos_token_id
    seen = set()
    for max_new in (3, 200):
        rows = client.generate(prompts, UIDS, SamplingConfig(2, 1.0, 1.0, -1, max_new), seed=0)
        for rollout, prompt in zip([r for row in rows for r in row], [p for p in prompts for _ in range(2)]):
            assert rollout.prompt_ids == prompt and rollout.logprobs is None
            assert rollout.finish_reason == ("stop" if rollout.response_ids[-1] == eos else "length")
            assert eos not in rollout.response_ids[:-1]
            assert rollout.truncated == (len(rollout.response_ids) == max_new and rollout.response_ids[-1] != eos)
            seen.add(rollout.finish_reason)
    assert seen == {"stop", "length"}, "the case must hold both"


def test_greedy_logprobs_equal_the_model(
    client: RolloutClient,
    prompts: list[list[int]],
    model: torch.nn.Module,
    response_logprobs: Callable[..., list[list[float]]],
) -> None:
    """Sampled and scored log-probs equal Hugging Face's in float32, whatever the temperature."""
    rows = client.generate(prompts, UIDS, WARM, seed=1, logprobs=True)
    rollouts = [r for row in rows for r in row]
    given = [r.prompt_ids for r in rollouts], [r.response_ids for r in rollouts]
    expected = response_logprobs(model, *given)
    scored = client.score(*given)
    for rollout, by_score, by_model in zip(rollouts, scored, expected, strict=True):
        torch.testing.assert_close(torch.tensor(rollout.logprobs), torch.tensor(by_model), atol=LOGPROB, rtol=0)
        torch.testing.assert_close(torch.tensor(by_score), torch.tensor(by_model), atol=LOGPROB, rtol=0)


def test_an_unexpected_version_is_refused(client: RolloutClient, prompts: list[list[int]]) -> None:
    with pytest.raises(StaleWeightsError, match="version 0, expected 3"):
        client.generate(prompts, UIDS, WARM, seed=0, expected_version=3)


def test_a_version_that_changes_meanwhile_is_refused(client: RolloutClient, prompts: list[list[int]]) -> None:
    def meddle(done: int, total: int, **info: Any) -> None:
        client.set_policy_version(9)

    try:
        with pytest.raises(StaleWeightsError, match="version 9, expected 0"):
            client.generate(prompts, UIDS, WARM, seed=0, progress=meddle)
    finally:
        client.set_policy_version(0)


def test_a_server_that_has_answered_sleeps(client: RolloutClient, server: VllmServer, prompts: list[list[int]]) -> None:
    """vLLM polls for a second after its last message: on few cores, a second taken from every training step."""

    def cpu_s() -> float:
        times = [p.cpu_times() for p in psutil.Process(server.pid).children(recursive=True)]
        return sum(t.user + t.system for t in times)

    client.generate(prompts, UIDS, WARM, seed=3)
    before = cpu_s()
    time.sleep(1.0)
    assert cpu_s() - before < 0.4


def test_what_cannot_fit_the_window_is_refused_by_name(client: RolloutClient, prompts: list[list[int]]) -> None:
    long = [5] * (client.max_model_len() - 10)
    with pytest.raises(UserError, match=r"question b: .*server\.max_model_len"):
        client.generate([prompts[0], long], UIDS[:2], WARM, seed=0)
    with pytest.raises(UserError, match="window"):
        client.score([long], [[5] * 10])
    with pytest.raises(UserError, match="temperature=0"):
        client.generate(prompts, UIDS, SamplingConfig(n=2, temperature=0), seed=0)


def test_every_endpoint_but_health_needs_the_key(server: VllmServer, client: RolloutClient) -> None:
    paths = client.request("GET", "/openapi.json")["paths"]
    assert {"/pause", "/collective_rpc", "/update_weights", "/v1/completions", "/weight_info"} <= set(paths)
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        assert http.get("/health").status_code == 200
        for path, methods in paths.items():
            for method in methods if path != "/health" else ():
                assert http.request(method, path).status_code == 401, (method, path)
    assert server.api_key not in server.log_path.read_text()


def test_a_wrong_key_is_told_with_the_remedy(server: VllmServer, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ServerConfig(url=server.url, api_key="wrong")
    with pytest.raises(ServerError, match=r"refuses our API key: set server\.api_key"):
        connect(config)
    monkeypatch.setenv("NOPSD_SERVER_KEY", server.api_key)
    with connect(ServerConfig(url=server.url)) as connected:
        assert connected.max_model_len() == 512


def test_a_dead_server_is_told_with_its_url(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setattr(client_module, "RETRY_DELAYS_S", (0.01, 0.01))
    with RolloutClient(f"http://127.0.0.1:{free_port}") as dead:
        with pytest.raises(ServerError, match=rf"127\.0\.0\.1:{free_port} can't be reached"):
            dead.generate([[1]], ["a"], WARM, seed=0)


# ---- answers the real server gives only when it is broken: a scripted one


def scripted(answers: dict[str, Callable[[dict[str, Any]], httpx.Response]]) -> RolloutClient:
    def handle(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "m", "max_model_len": 64}]})
        if path in answers:
            return answers[path](json.loads(request.content or "{}"))
        return httpx.Response(200, json={"weight_version": "default"})

    return client_answered_by(handle)


ONE = SamplingConfig(n=1, max_new=4)


def completion(body: dict[str, Any], **changes: Any) -> httpx.Response:
    choice = {"index": 0, "text": "t", "finish_reason": "stop", "token_ids": [3], "prompt_token_ids": body["prompt"]}
    return httpx.Response(200, json={"choices": [{**choice, **changes}]})


@pytest.mark.parametrize("changes", [{"token_ids": None}, {"prompt_token_ids": [8]}])
def test_a_server_without_ids_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ServerError, match="no token ids, or ids of another prompt"):
        scripted({"/v1/completions": lambda b: completion(b, **changes)}).generate([[1]], ["a"], ONE, 0)


def test_missing_samples_and_strange_ends_are_refused() -> None:
    with pytest.raises(ServerError, match="1 of 2 responses to a"):
        scripted({"/v1/completions": completion}).generate([[1]], ["a"], SamplingConfig(n=2, max_new=4), 0)
    with pytest.raises(ServerError, match="ended a by 'error'"):
        scripted({"/v1/completions": lambda b: completion(b, finish_reason="error")}).generate([[1]], ["a"], ONE, 0)


def test_an_overloaded_server_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RETRY_DELAYS_S", (0.01, 0.01))
    busy = iter([503, 503])

    def answer(body: dict[str, Any]) -> httpx.Response:
        status = next(busy, 200)
        return completion(body) if status == 200 else httpx.Response(status)

    assert scripted({"/v1/completions": answer}).generate([[1]], ["a"], ONE, 0)[0][0].response_ids == [3]
    with pytest.raises(ServerError, match="not available"):
        scripted({"/v1/completions": lambda b: httpx.Response(503)}).generate([[1]], ["a"], ONE, 0)


def test_a_server_without_development_mode_is_told_what_it_lacks() -> None:
    with pytest.raises(ServerError, match="VLLM_SERVER_DEV_MODE=1"):
        scripted({"/weight_info": lambda b: httpx.Response(404)}).check()


def test_the_wait_in_the_queue_is_counted(client: RolloutClient, prompts: list[list[int]]) -> None:
    """Broken if vLLM's counters go by other names: a step's wait would be shown as none."""
    ((seconds, requests),) = client.queue_times().values()
    client.generate(prompts, UIDS, WARM, seed=5)
    ((after, more),) = client.queue_times().values()
    assert more - requests == len(prompts) * WARM.n and 0 < after - seconds < 60
