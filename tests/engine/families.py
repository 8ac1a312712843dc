"""Every decoder that Transformers knows, as configs, and what nopsd does with each in small: docs/families.md's table.

A family's default config is its published model's. `VARIANTS` are settings under which the same code computes
something else. `python tests/engine/families.py` prints the table.
"""

from __future__ import annotations

import ast
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nopsd.config import LoraConfig
from nopsd.engine.distributed import Ranks
from nopsd.engine.family_check import judge
from nopsd.engine.lora import adapter_parameters, add_lora
from nopsd.engine.tiny import tiny_model
from nopsd.errors import UserError
from nopsd.neurons.adapters import find_sites
from nopsd.train.export import _compare, probe_logits, write_weights
from nopsd.train.losses.head import check_head, is_linear

COLUMNS = ("scoring", "training", "packing", "Ulysses", "LoRA", "serving", "export")
IDS = list(range(3, 15))
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
# What a default config lacks: real ones have it.
LACKING: dict[str, dict[str, Any]] = {
    "dots1": {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "deepseek_v2": {"topk_method": "greedy", "num_experts_per_tok": 2, "n_routed_experts": 8},
    "nemotron": {"head_dim": 128, "num_key_value_heads": 48},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 8, "clip_qkv": 8}},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention"] * 2, "num_hidden_layers": 6},
    "reformer": {"is_decoder": True},
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "short_factor": [1.0] * 48,
    "long_factor": [4.0] * 48,
    "original_max_position_embeddings": 4096,
}
DYNAMIC = {**PLAIN, "rope_type": "dynamic", "factor": 4.0}
YARN = {**PLAIN, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
LLAMA3 = {
    **PLAIN,
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
WINDOWS = {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 2}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama with dynamic RoPE": ("llama", {"rope_parameters": DYNAMIC}),
    "llama with llama3 RoPE": ("llama", {"rope_parameters": LLAMA3}),
    "phi3 with longrope": ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 4096}),
    "phi3 with a window": ("phi3", {"sliding_window": 2047}),
    "qwen2 with windows": ("qwen2", WINDOWS),
    "qwen3 with windows": ("qwen3", WINDOWS),
    "qwen3 with yarn": ("qwen3", {"rope_parameters": YARN}),
    "mistral without a window": ("mistral", {"sliding_window": None}),
    "mixtral with a window": ("mixtral", {"sliding_window": 4096}),
    "starcoder2 with a window": ("starcoder2", {"sliding_window": 4096}),
    "phimoe with a window": ("phimoe", {"sliding_window": 2047}),
    "falcon with ALiBi": ("falcon", {"alibi": True}),
    "granite as published": ("granite", {"logits_scaling": 8.0, "attention_multiplier": 0.0156}),
}


def config_of(name: str) -> Any:
    """The config of a family, by its model type or a variant's name."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    family, changes = VARIANTS.get(name, (name, LACKING.get(name, {})))
    return CONFIG_MAPPING[family](**changes)


def all_families() -> list[str]:
    """Model types of all causal language models of Transformers that have a config of their own, and the variants."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    parts_of_others = {"musicgen", "musicgen_melody"}  # configs that are made of others'
    return [*(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in parts_of_others), *VARIANTS]


def cells(name: str) -> dict[str, str]:
    """ "yes" by column if it works in small, "no" if it is refused, "?" if the family can't be tried."""
    config = config_of(name)
    limits = judge(config)
    served = "yes" if set(architectures(config)) & served_architectures() else "no"
    if not limits.tried:
        return {**dict.fromkeys(COLUMNS, "?"), "packing": "no", "Ulysses": "no", "serving": served}
    trained = not limits.padded and not limits.trained and works(lambda: check_training_head(config))
    found = {
        "scoring": not limits.padded and works(lambda: find_sites(tiny_model(config))),
        "training": trained,
        "packing": trained and not limits.packed,
        "Ulysses": trained and not limits.split,
        "LoRA": trained and works(lambda: adapt(config)),
        "export": trained and works(lambda: export(config)),
    }
    return {**{column: "yes" if found.get(column) else "no" for column in COLUMNS}, "serving": served}


def table(found: dict[str, dict[str, str]]) -> str:
    """The rows of docs/families.md: families with the same cells stand together."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, row in found.items():
        groups.setdefault(tuple(row[column] for column in COLUMNS), []).append(name)
    ordered = sorted(groups.items(), key=lambda item: (-item[0].count("yes"), item[0]))
    lines = [f"| {', '.join(sorted(names))} | {' | '.join(row)} |" for row, names in ordered]
    return "\n".join([f"| family | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|", *lines])


def works(what: Callable[[], object]) -> bool:
    """Whether it raises nothing: a family's own code, PEFT's and Transformers' loader raise anything."""
    try:
        what()
    except Exception:
        return False
    return True


def check_training_head(config: Any) -> None:
    lm = tiny_model(config)
    check_head(lm)
    if not is_linear(lm):
        raise UserError("its logits are more than its head of the hidden states")


def adapt(config: Any) -> None:
    """Adapters are put in, get gradients, and change the logits."""
    lm = tiny_model(config)
    before = probe_logits(lm, IDS)
    add_lora(lm, LoraConfig(r=2), seed=1)
    lm(input_ids=torch.tensor([IDS]), use_cache=False).logits.sum().backward()
    grads = [p.grad for name, p in adapter_parameters(lm, "default").items() if "lora_B" in name]
    assert grads and any(g is not None and float(g.abs().max()) > 0 for g in grads)
    assert torch.allclose(probe_logits(lm, IDS), before, atol=1e-4)  # B is 0


def export(config: Any) -> None:
    """What is written is loaded again as the same model."""
    lm = tiny_model(config)
    with tempfile.TemporaryDirectory() as folder:
        lm.config.save_pretrained(folder)
        write_weights(lm, Path(folder), Ranks(0, 1, torch.device("cpu")))
        _compare(probe_logits(lm, IDS), Path(folder), IDS, torch.float32, trust_remote_code=False)


def architectures(config: Any) -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    return [MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__]


def served_architectures() -> set[str]:
    """Architectures that the installed vLLM lists, without importing it."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).parent / "model_executor" / "models" / "registry.py"
    tables = {
        target.id: node.value
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    lists = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS")
    return {key.value for name in lists for key in tables[name].keys if isinstance(key, ast.Constant)}


if __name__ == "__main__":
    print(table({name: cells(name) for name in all_families()}))
