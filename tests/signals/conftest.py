"""Tiny real models with weights large enough to matter, rollouts of uneven length, and questions to go with them."""

import importlib.util
import random
from pathlib import Path

import pytest
import torch
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from nopsd.data.records import Option, Question
from nopsd.engine.distributed import Ranks
from nopsd.rollout.types import Rollout

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM, {"final_logit_softcapping": 3.0}),
    "granite": (GraniteConfig, GraniteForCausalLM, {"logits_scaling": 4.0}),
    "cohere2": (Cohere2Config, Cohere2ForCausalLM, {"logit_scale": 0.5}),
}


class Unsharded:
    """A plain model called the way a DeepSpeed engine is; the sharded one is in test_ranks."""

    def __init__(self, module):
        self.module, self.forwards = module, 0

    def __call__(self, **inputs):
        self.forwards += 1
        return self.module(**inputs)


def build(family="qwen3", tied=False, dtype=torch.float32):
    torch.manual_seed(3)
    config_class, model_class, more = FAMILIES[family]
    model = model_class(config_class(**SIZES, **more, tie_word_embeddings=tied)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.3)
    return model.to(dtype)


@pytest.fixture(scope="session")
def build_model():
    return build


@pytest.fixture
def engine():
    return Unsharded(build())


@pytest.fixture(scope="session")
def unsharded():
    return Unsharded


@pytest.fixture(scope="session")
def alone():
    return Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="session")
def make_rollouts():
    def make(questions, samples=1, seed=0, longest=14):
        draw = random.Random(seed)

        def tokens(n):
            return [draw.randrange(3, 64) for _ in range(n)]

        return [
            Rollout(f"q{q:03d}", s, tokens(draw.randint(2, 6)), tokens(draw.randint(1, longest)), "text", "stop", 0)
            for q in range(questions)
            for s in range(samples)
        ]

    return make


@pytest.fixture(scope="session")
def question():
    """A question with options A to D."""
    return lambda uid: Question(uid, "d", "s", f"text {uid}", tuple(Option(c, f"option {c}") for c in "ABCD"))


@pytest.fixture(scope="session")
def answered():
    """Rollouts of a question that give these answers; None: nothing that can be read."""

    def make(uid, answers):
        texts = ["thinking only" if a is None else f"so <answer>{a}</answer>" for a in answers]
        return [Rollout(uid, i, [5, 6], [7, 8], text, "stop", 0) for i, text in enumerate(texts)]

    return make


@pytest.fixture(scope="session")
def oracle():
    """The module oracle.py beside this file."""
    spec = importlib.util.spec_from_file_location("signals_oracle", Path(__file__).with_name("oracle.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def worker_ranks():
    """The script that runs a worker on 1, 2, 4 real ranks."""
    return Path(__file__).parents[1] / "engine" / "worker_ranks.py"
