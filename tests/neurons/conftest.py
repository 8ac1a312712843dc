"""Tiny real models of every architecture that has an adapter; more in tests/scoring.py."""

import pytest
import torch

from tests.scoring import SIZES, build_model, engine, make_rollouts, unsharded  # noqa: F401 (fixtures)

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
