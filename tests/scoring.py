"""What the tests of neurons and of signals score: small models of several families, rollouts of uneven length."""

from __future__ import annotations

import random

import pytest
import torch
import transformers

from nopsd.rollout.types import Rollout
from tests.models import Unsharded

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
# What a family's head does more than a product: scales or caps of its logits.
HEADS = {
    "Gemma2": {"final_logit_softcapping": 3.0},
    "Granite": {"logits_scaling": 4.0},
    "Cohere2": {"logit_scale": 0.5},
}


def build(family="qwen3", tied=False, dtype=torch.float32):
    """A random model whose matrices are large enough to matter."""
    name = family.capitalize()
    config = getattr(transformers, f"{name}Config")(**SIZES, **HEADS.get(name, {}), tie_word_embeddings=tied)
    torch.manual_seed(3)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
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
def make_rollouts():
    """Rollouts of random tokens; every fifth question's are cut at the limit."""

    def make(questions, samples=1, seed=0, longest=14):
        draw = random.Random(seed)

        def tokens(n):
            return [draw.randrange(3, 64) for _ in range(n)]

        return [
            Rollout(
                f"q{q:03d}",
                s,
                tokens(draw.randint(2, 6)),
                tokens(draw.randint(1, longest)),
                "text",
                "length" if q % 5 == 4 else "stop",
                0,
            )
            for q in range(questions)
            for s in range(samples)
        ]

    return make
