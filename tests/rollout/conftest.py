"""One real vLLM server for all tests of nopsd.rollout, and the Hugging Face model beside it as the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from nopsd.cluster.servers.local import VllmServer, start_server
from nopsd.config import ServerConfig
from nopsd.rollout.client import RolloutClient
from nopsd.rollout.weight_sync import load_folder

WINDOW = 512
SERVER = ServerConfig(max_model_len=WINDOW, max_num_seqs=32, kv_cache_mib=64, sync_bucket_mib=1, sync_timeout_s=60)


@pytest.fixture(scope="session")
def model_dir(lab_model_dir: Path) -> Path:
    """The lab's model: 4 layers, tied embeddings."""
    return lab_model_dir


@pytest.fixture(scope="session")
def server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """The server, started once; tests that change its weights do so through `client`'s reset."""
    with start_server(SERVER, str(model_dir), "float32", tmp_path_factory.mktemp("server") / "server.log") as running:
        yield running
        running.check_alive()


@pytest.fixture
def client(server: VllmServer, model_dir: Path) -> Iterator[RolloutClient]:
    """A client of the server; it serves the lab's own weights as version 0."""
    with server.client(timeout_s=120) as made:
        if made.policy_version() != 0:
            load_folder(made, model_dir, 0)
        yield made


@pytest.fixture
def model(model_dir: Path) -> torch.nn.Module:
    """The same weights in Hugging Face's implementation, float32."""
    return load_reference(model_dir)


def load_reference(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def response_logprobs() -> Callable[..., list[list[float]]]:
    """(module, prompts, responses) -> log-probs of the response ids under the module, one sequence at a time."""

    @torch.no_grad()
    def compute(module: Any, prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> list[list[float]]:
        rows = []
        for prompt, response in zip(prompts, responses, strict=True):
            ids_1T = torch.tensor([prompt + response])
            logprobs_TV = module(ids_1T).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
            rows.append(logprobs_TV.gather(1, torch.tensor(response)[:, None])[:, 0].tolist())
        return rows

    return compute


@pytest.fixture(scope="session")
def prompts(model_dir: Path) -> list[list[int]]:
    """Chat prompts of unequal lengths."""
    from nopsd.config import PromptConfig
    from nopsd.data.prompts import PromptRenderer, load_tokenizer
    from nopsd.data.records import Question

    renderer = PromptRenderer(load_tokenizer(model_dir), PromptConfig())
    texts = ["What is two plus three?", "Add one to the second list, then reverse it, please.", "Why?"]
    return [renderer.student(Question(str(i), "d", "s", text)) for i, text in enumerate(texts)]
