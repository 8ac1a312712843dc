"""Weights on the real server: if these fail, rollouts come from another policy than the one being trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nopsd.cluster.servers.local import VllmServer
from nopsd.config import LoraConfig, ServerConfig
from nopsd.engine.lora import STUDENT, adapter_parameters, add_lora
from nopsd.errors import ServerError, StaleWeightsError, UserError
from nopsd.network import address_towards
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.served_weights import verify_served
from nopsd.rollout.weight_source import WeightSource
from nopsd.rollout.weight_sync import WeightSync, choose_backend, load_folder, open_weight_sync

RESPONSES = [[40, 41, 42, 43, 44, 45, 46, 47], [300, 7], [500, 501, 502]]
TOLERANCE = 1e-4
Logprobs = Callable[..., list[list[float]]]


def sync_config(backend: str) -> ServerConfig:
    return ServerConfig(weight_sync=backend, sync_bucket_mib=1, sync_timeout_s=60)


def perturb(model: torch.nn.Module, seed: int) -> None:
    """Change every parameter, the tied embedding included, by a tenth of its spread."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * parameter.std() * torch.randn_like(parameter)


@pytest.mark.parametrize("backend", ["gloo", "disk"])
def test_pushed_weights_are_the_served_ones(
    backend: str, client: RolloutClient, model: torch.nn.Module, prompts: list[list[int]], response_logprobs: Logprobs
) -> None:
    """Two pushes from a plain module; the second catches a prefix cache or packed head left from the first."""
    sync = open_weight_sync(model, client, sync_config(backend), rank=0, device="cpu")
    before = response_logprobs(model, prompts, RESPONSES)
    assert verify_served(client, prompts, RESPONSES, before, TOLERANCE) <= TOLERANCE
    for version in (1, 2):
        perturb(model, version)
        trained = response_logprobs(model, prompts, RESPONSES)
        with pytest.raises(StaleWeightsError, match="differ by up to"):
            verify_served(client, prompts, RESPONSES, trained, TOLERANCE)
        sync.push(version)
        assert client.policy_version() == version
        assert verify_served(client, prompts, RESPONSES, trained, TOLERANCE) <= TOLERANCE
    sync.close()


def test_adapters_are_served_merged(
    client: RolloutClient, model: torch.nn.Module, prompts: list[list[int]], response_logprobs: Logprobs
) -> None:
    """The server samples from a plain model: adapters left out of the push would make every rollout the base's."""
    add_lora(model, LoraConfig(r=4), seed=1)
    sync = open_weight_sync(model, client, sync_config("gloo"), rank=0, device="cpu")
    torch.manual_seed(3)
    for parameter in adapter_parameters(model, STUDENT).values():
        parameter.data.normal_(0, 0.05)
    trained = response_logprobs(model, prompts, RESPONSES)
    with pytest.raises(StaleWeightsError, match="differ by up to"):
        verify_served(client, prompts, RESPONSES, trained, TOLERANCE)
    sync.push(1)
    assert verify_served(client, prompts, RESPONSES, trained, TOLERANCE) <= TOLERANCE
    sync.close()


def test_a_folder_is_served_under_its_version(
    client: RolloutClient, model: torch.nn.Module, prompts: list[list[int]], response_logprobs: Logprobs, tmp_path: Path
) -> None:
    perturb(model, 5)
    model.save_pretrained(tmp_path)
    load_folder(client, tmp_path, 17)
    assert client.policy_version() == 17
    trained = response_logprobs(model, prompts, RESPONSES)
    assert verify_served(client, prompts, RESPONSES, trained, TOLERANCE) <= TOLERANCE


def test_an_empty_folder_is_refused_before_the_server_is_touched(client: RolloutClient, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no \\*.safetensors"):
        load_folder(client, tmp_path, 1)
    assert client.policy_version() == 0


@pytest.mark.slow
def test_zero3_student_on_two_ranks_serves_what_it_trained(
    server: VllmServer,
    client: RolloutClient,
    model_dir: Path,
    prompts: list[list[int]],
    tmp_path: Path,
    deepspeed_run: Callable[..., object],
) -> None:
    """A step on shards, then a push by each backend; no rank holds the whole model."""
    case = {
        "url": server.url,
        "key": server.api_key,
        "model": str(model_dir),
        "prompts": prompts,
        "responses": RESPONSES,
        "backends": ["gloo", "disk"],
    }
    (tmp_path / "case.json").write_text(json.dumps(case))
    script = Path(__file__).with_name("zero3_push.py")
    deepspeed_run(script, tmp_path / "case.json", tmp_path / "result.json", ranks=2, timeout=480)
    result = json.loads((tmp_path / "result.json").read_text())
    assert [r["version"] for r in result] == [1, 2]
    for row in result:
        assert row["worst"] <= TOLERANCE < row["worst_before"]
        assert row["held_share"] < 0.6, "each of two ranks must hold about half"
        assert row["largest_whole"] <= row["largest_parameter"], "one parameter at a time"


# ---- the parts


@pytest.mark.parametrize(
    ("asked", "device", "host", "used"),
    [
        ("auto", "cpu", "10.0.0.2", "gloo"),
        ("auto", "cuda", "127.0.0.1", "gloo"),
        ("auto", "cuda", "::1", "gloo"),
        ("auto", "cuda", "192.0.2.9", "nccl"),
        ("auto", "cuda", address_towards("192.0.2.9"), "disk"),
        ("disk", "cuda", "192.0.2.9", "disk"),
        ("nccl", "cuda", "::1", "nccl"),
    ],
)
def test_backend_choice(asked: str, device: str, host: str, used: str) -> None:
    """NCCL between two processes on one GPU fails; an address of this host may be one of its GPUs."""
    assert choose_backend(ServerConfig(weight_sync=asked), device, [host]) == used


class Refusing(RolloutClient):
    """A server that refuses to pause."""

    def request(self, method: str, path: str, *args: object, **kwargs: object) -> dict[str, Any]:
        return {}

    def pause(self, timeout_s: float | None = None) -> None:
        raise ServerError("no")


def test_a_failed_push_names_phase_and_host_and_still_runs_every_gather(model: torch.nn.Module) -> None:
    taken: list[str] = []

    class Counting(WeightSource):
        def stream(self) -> Iterator[tuple[str, torch.Tensor | None]]:
            for name, tensor in super().stream():
                taken.append(name)
                yield name, tensor

    source = Counting(model, True)
    sync = WeightSync(source, Refusing("http://x"), sync_config("disk"), 0, torch.device("cpu"))
    sync.connect()
    taken.clear()  # what a server holds before the first update was read
    with pytest.raises(ServerError, match=r"of version 4: rank 0 on \S+ failed in phase 'pause': no"):
        sync.push(4)
    assert taken == [m.name for m in source.metas()]
