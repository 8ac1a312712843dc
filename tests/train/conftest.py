"""Two launches of worker_engines.py (1 and 2 ranks) whose results the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).with_name("worker_engines.py")


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two random two-layer Qwen3 models: tied/ and untied/ (embeddings)."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("models")
    for name in ("tied", "untied"):
        torch.manual_seed(7)
        config = Qwen3Config(
            vocab_size=300,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=256,
            tie_word_embeddings=name == "tied",
            initializer_range=0.2,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        Qwen3ForCausalLM(config).save_pretrained(folder / name)
        (folder / name / "chat_template.jinja").write_text("{{ messages }}")  # stands for the tokenizer's files
    return folder


@pytest.fixture(scope="session")
def engine_cases(
    deepspeed_run: Callable[..., Any], tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Results by "RANKSxCASE": what each case of worker_engines.py left; `models` and `folders` beside them."""
    import torch

    plan = {
        1: ["micro4", "micro3", "export_untied"],
        2: ["micro2", "micro1", "align", "ema", "ema_bf16", "nonfinite", "resume", "export"],
    }
    found: dict[str, Any] = {"models": tiny_models, "folders": {}}
    for ranks, cases in plan.items():
        out = found["folders"][ranks] = tmp_path_factory.mktemp(f"ranks{ranks}")
        found[f"{ranks}xoutput"] = deepspeed_run(WORKER, tiny_models, out, *cases, ranks=ranks, timeout=500).output
        found |= {f"{ranks}x{case}": torch.load(out / f"{case}.pt", weights_only=True) for case in cases}
    return found
