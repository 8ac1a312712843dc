"""A mixture of experts on the real server: if these fail, its rollouts come from garbled experts after each sync.

vLLM 0.32's CPU build packs the experts' weights when its kernel is made and not when they are loaded again
(`UnquantizedFusedMoEMethod._setup_kernel`); nopsd.rollout.vllm_plugin packs them then too.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nopsd.cluster.servers.local import VllmServer, start_server
from nopsd.errors import StaleWeightsError
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.served_weights import verify_served
from nopsd.rollout.weight_sync import load_folder, open_weight_sync
from tests.rollout.conftest import SERVER
from tests.rollout.test_weight_sync import RESPONSES, TOLERANCE, Logprobs, perturb, sync_config

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [20, 21], [30, 31, 32, 33]]


def save_mixture(folder: Path, lab: Path, inner: int = 32) -> Path:
    """A random Qwen3-MoE of two layers, four experts, with the lab's tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM, Qwen3MoeConfig

    base = AutoConfig.from_pretrained(lab)
    config = Qwen3MoeConfig(
        vocab_size=base.vocab_size,
        hidden_size=64,
        intermediate_size=96,
        moe_intermediate_size=inner,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # vLLM's CPU attention takes no smaller ones
        num_experts=4,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        max_position_embeddings=base.max_position_embeddings,
        tie_word_embeddings=False,
        initializer_range=0.15,
        bos_token_id=base.bos_token_id,
        eos_token_id=base.eos_token_id,
        pad_token_id=base.pad_token_id,
    )
    torch.manual_seed(11)
    for file in lab.iterdir():
        if file.suffix in (".json", ".jinja") and file.name != "config.json":
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / file.name)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def mixture_dir(lab_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mixture(tmp_path_factory.mktemp("mixture"), lab_model_dir)


@pytest.fixture(scope="module")
def mixture_server(mixture_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    log = tmp_path_factory.mktemp("mixture_server") / "server.log"
    with start_server(SERVER, str(mixture_dir), "float32", log) as running:
        yield running
        running.check_alive()


@pytest.fixture
def served(mixture_server: VllmServer, mixture_dir: Path) -> Iterator[RolloutClient]:
    with mixture_server.client(timeout_s=120) as made:
        if made.policy_version() != 0:
            load_folder(made, mixture_dir, 0)
        yield made


@pytest.fixture
def mixture(mixture_dir: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(mixture_dir, dtype=torch.float32).eval()


@pytest.mark.engine
@pytest.mark.slow
def test_experts_are_served_rightly_after_each_reload(
    served: RolloutClient,
    mixture: Any,
    mixture_dir: Path,
    response_logprobs: Logprobs,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """As started, loaded again from a folder, pushed by each backend, and other experts from a folder."""
    given = PROMPTS, RESPONSES
    before = response_logprobs(mixture, *given)
    gaps = {"started": verify_served(served, *given, before, TOLERANCE)}
    load_folder(served, mixture_dir, 3)
    gaps["loaded again"] = verify_served(served, *given, before, TOLERANCE)
    for version, backend in enumerate(("gloo", "disk"), 4):
        sync = open_weight_sync(mixture, served, sync_config(backend), rank=0, device="cpu")
        perturb(mixture, version)
        trained = response_logprobs(mixture, *given)
        with pytest.raises(StaleWeightsError, match="differ by up to"):  # the check sees other experts
            verify_served(served, *given, trained, TOLERANCE)
        sync.push(version)
        gaps[backend] = verify_served(served, *given, trained, TOLERANCE)
        sync.close()
    mixture.save_pretrained(tmp_path)
    load_folder(served, mixture_dir, 0)
    gaps["base again"] = verify_served(served, *given, before, TOLERANCE)
    load_folder(served, tmp_path, 7)
    gaps["another folder"] = verify_served(served, *given, trained, TOLERANCE)
    record_property("gaps", gaps)


@pytest.mark.engine
@pytest.mark.slow
def test_the_check_sees_experts_that_alone_are_wrong(
    served: RolloutClient, mixture: Any, response_logprobs: Logprobs, tmp_path: Path
) -> None:
    """Router, attention, norms and embeddings are right, and the experts' rows are in another order."""
    right = response_logprobs(mixture, PROMPTS, RESPONSES)
    with torch.no_grad():
        for name, weight in mixture.named_parameters():
            if ".experts." in name:
                weight.copy_(weight.roll(1, 1))
    mixture.save_pretrained(tmp_path)
    load_folder(served, tmp_path, 9)
    with pytest.raises(StaleWeightsError, match="differ by up to"):
        verify_served(served, PROMPTS, RESPONSES, right, 0.2)
