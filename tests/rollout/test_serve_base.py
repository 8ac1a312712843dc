"""A server must hold the model that the run names: if these fail, other weights' rollouts are sealed under its hash."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from nopsd.config import load_config
from nopsd.errors import StaleWeightsError
from nopsd.files import read_json, write_json
from nopsd.models import hash_of
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.served_weights import verify_served
from nopsd.rollout.weight_sync import serve_base
from nopsd.run.session import Session
from tests.rollout.test_weight_sync import RESPONSES, TOLERANCE, perturb


class StandIn:
    """A server that reports version 0 whatever it holds. `obeys`: it loads any folder that it is asked to."""

    def __init__(self, source: str, weights: str | None, obeys: bool = True, **shape: Any) -> None:
        self.held: dict[str, Any] = {"source": source, "hash": weights, "shape": shape}
        self.obeys, self.version, self.loaded = obeys, "0", 0
        self.client = RolloutClient("http://stand-in", "key", 5.0, ())
        self.client._http = httpx.Client(base_url="http://stand-in", transport=httpx.MockTransport(self._handle))

    def _handle(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else {}
        if request.url.path == "/weight_info":
            return httpx.Response(200, json={"weight_version": self.version})
        if request.url.path == "/update_weight_version":
            self.version = body["new_version"]
        if body.get("method") == "nopsd_held_weights":
            if self.held["source"] == "unknown":
                return httpx.Response(500, text="no such method")
            return httpx.Response(200, json={"results": [self.held]})
        if body.get("method") == "nopsd_load_folder":
            self.loaded += 1
            if self.obeys:
                self.held = {**self.held, "source": body["args"][0], "hash": hash_of(Path(body["args"][0]))}
        return httpx.Response(200, json={})


@pytest.fixture
def base(lab_model_dir: Path) -> tuple[Path, str]:
    return lab_model_dir, hash_of(lab_model_dir)


def test_a_server_that_holds_the_model_is_left_alone(base: tuple[Path, str]) -> None:
    server = StandIn("/elsewhere/a-copy", base[1])
    serve_base(server.client, *base)
    assert server.loaded == 0


@pytest.mark.parametrize("weights", ["0" * 64, None])
def test_other_weights_of_the_same_shape_are_replaced(base: tuple[Path, str], weights: str | None) -> None:
    """What another run loaded, or files that were written over since, under version 0."""
    server = StandIn("/other", weights, hidden_size=128, vocab_size=1024)
    serve_base(server.client, *base)
    assert server.loaded == 1 and server.held["hash"] == base[1] and server.version == "0"


def test_another_architecture_is_refused_untouched(base: tuple[Path, str]) -> None:
    server = StandIn("Qwen/Qwen3-4B", "0" * 64, hidden_size=2560, vocab_size=151936)
    with pytest.raises(StaleWeightsError, match="stand-in holds the weights of Qwen/Qwen3-4B, not those of model.path"):
        serve_base(server.client, *base)
    assert server.loaded == 0 and server.version == "0"


@pytest.mark.parametrize("source", ["/other", "unknown"])
def test_a_server_that_goes_on_holding_others_is_refused(base: tuple[Path, str], source: str) -> None:
    """One on another host reads its own files of that name; one without our plug-in can't say."""
    server = StandIn(source, "0" * 64, obeys=False)
    with pytest.raises(StaleWeightsError, match="start it on that model"):
        serve_base(server.client, *base)


def test_a_run_asks_before_its_first_sample(
    base: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`server.url` is where rollouts of other weights came from."""
    server = StandIn("Qwen/Qwen3-4B", "0" * 64, hidden_size=2560)
    with Session(load_config("lab", [f"run_dir={tmp_path}", "server.url=http://stand-in"])) as session:
        monkeypatch.setattr(Session, "client", lambda self: server.client)
        with pytest.raises(StaleWeightsError, match="start it on that model"):
            session.client_holding(session.model.path, version=0)


def test_a_real_server_says_what_it_holds_and_is_given_the_base(
    client: RolloutClient,
    model: torch.nn.Module,
    model_dir: Path,
    prompts: list[list[int]],
    response_logprobs: Callable[..., list[list[float]]],
    tmp_path: Path,
) -> None:
    """Started on the lab's model, loaded with another run's under version 0, then asked for by a run of each."""
    held = client.held_weights()
    assert held.hash == hash_of(model_dir) and held.shape["hidden_size"] == model.config.hidden_size
    lab = response_logprobs(model, prompts, RESPONSES)
    serve_base(client, model_dir, hash_of(model_dir))
    verify_served(client, prompts, RESPONSES, lab, TOLERANCE)

    other = tmp_path / "other"
    shutil.copytree(model_dir, other)
    perturb(model, 6)
    model.save_pretrained(other)
    trained = response_logprobs(model, prompts, RESPONSES)
    serve_base(client, other, hash_of(other))
    assert client.policy_version() == 0 and client.held_weights().hash == hash_of(other)
    verify_served(client, prompts, RESPONSES, trained, TOLERANCE)

    perturb(model, 7)
    model.save_pretrained(other)  # written over: what the server holds is no longer what lies there
    assert client.held_weights().hash is None

    config = read_json(other / "config.json")
    write_json(other / "config.json", {**config, "num_hidden_layers": 2})
    with pytest.raises(StaleWeightsError, match="num_hidden_layers is 4"):
        serve_base(client, other, hash_of(other))
    serve_base(client, model_dir, hash_of(model_dir))
    verify_served(client, prompts, RESPONSES, lab, TOLERANCE)
