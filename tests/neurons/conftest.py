"""Tiny real models with weights large enough to matter, and rollouts of uneven length."""

import random
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

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


class Unsharded:
    """A plain model called the way a DeepSpeed engine is; the sharded one is tested in test_score_pool_on_ranks."""

    def __init__(self, module):
        self.module, self.forwards = module, 0

    def __call__(self, **inputs):
        self.forwards += 1
        return self.module(**inputs)


def build(family="qwen3", tied=False):
    torch.manual_seed(3)
    classes = {"qwen3": (Qwen3Config, Qwen3ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}
    config_class, model_class = classes[family]
    model = model_class(config_class(**SIZES, tie_word_embeddings=tied)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.3)
    return model


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


@pytest.fixture(scope="session")
def worker_ranks():
    """The script that runs a worker on 1, 2, 4 real ranks."""
    return Path(__file__).parents[1] / "engine" / "worker_ranks.py"


# Architectures by kind of MLP; see nopsd/neurons/adapters. (transformers' class prefix, changes to SIZES)
GPT2_SIZES = {"n_embd": 16, "n_inner": 24, "n_layer": 3, "n_head": 2, "n_positions": 128}
EXPERTS = {"moe_intermediate_size": 8, "num_experts": 5, "num_experts_per_tok": 2}
FAMILIES = {
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {}),
    "gemma": ("Gemma", {}),
    "gemma2": ("Gemma2", {}),
    "gemma3": ("Gemma3", {}),
    "phi3": ("Phi3", {}),
    "glm": ("Glm", {}),
    "gpt_neox": ("GPTNeoX", {}),
    "gpt2": ("GPT2", GPT2_SIZES),
    "phi": ("Phi", {}),
    "opt": ("OPT", {"ffn_dim": 24, "word_embed_proj_dim": 16}),
    "qwen3_moe": ("Qwen3Moe", {**EXPERTS, "norm_topk_prob": True}),
    "mixed": ("Qwen3Moe", {**EXPERTS, "mlp_only_layers": [1]}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 8}),
    "qwen2_moe": ("Qwen2Moe", {**EXPERTS, "shared_expert_intermediate_size": 8}),
}


def build_family_model(family, tied=False):
    """A tiny random model, every matrix and bias large enough to matter."""
    import transformers

    prefix, changes = FAMILIES[family]
    config_class = getattr(transformers, f"{prefix}TextConfig" if prefix == "Gemma3" else f"{prefix}Config")
    head = {"GPT2": "GPT2LMHeadModel"}.get(prefix, f"{prefix}ForCausalLM")
    torch.manual_seed(7)
    model = getattr(transformers, head)(config_class(**{**SIZES, **changes}, tie_word_embeddings=tied)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 or name.endswith("bias"):
                parameter.normal_(0, 0.3)
    return model


@pytest.fixture(scope="session")
def build_family():
    return build_family_model
