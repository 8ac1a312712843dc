"""Small random models that several folders' tests start from, and a plain model called as a DeepSpeed engine is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

# The smallest with two layers, two query heads and one key-value head.
TINY = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
# One whose heads and vocabulary can be shared by two ranks, for engines.
SMALL = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def qwen3(seed: int = 0, sizes: dict[str, Any] = TINY, **changes: Any) -> Any:
    """A random Qwen3 of these sizes, in float32, set to evaluation."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    return Qwen3ForCausalLM(Qwen3Config(**{**sizes, **changes})).eval()


def save_small(folder: Path, **changes: Any) -> Path:
    """A folder with a random model of SMALL's sizes, its embeddings tied if nothing else is said."""
    qwen3(7, SMALL, **{"tie_word_embeddings": True, **changes}).save_pretrained(folder)
    return folder


def sharded_config(tight: bool) -> dict[str, Any]:
    """DeepSpeed's settings that shard every weight over the ranks; `tight`: none stays whole longer than it must."""
    limits = {"stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": False},
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0, **(limits if tight else {})},
    }


class Unsharded:
    """A plain model called the way a DeepSpeed engine is; `forwards` counts its passes."""

    def __init__(self, module: torch.nn.Module):
        self.module, self.forwards = module, 0

    def __call__(self, **inputs: Any) -> Any:
        self.forwards += 1
        return self.module(**inputs)
