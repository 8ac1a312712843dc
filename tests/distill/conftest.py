"""Two launches of worker_engines.py (1 and 2 ranks) whose results the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORKER = Path(__file__).with_name("worker_engines.py")


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random two-layer Qwen3 models, with tied and with untied embeddings."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folders = {}
    for name, tied in (("tied", True), ("untied", False)):
        torch.manual_seed(7)
        config = Qwen3Config(
            vocab_size=300, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=16, max_position_embeddings=256, tie_word_embeddings=tied,
            initializer_range=0.2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        folders[name] = tmp_path_factory.mktemp(name)
        Qwen3ForCausalLM(config).save_pretrained(folders[name])
        (folders[name] / "chat_template.jinja").write_text("{{ messages }}")  # stands for the tokenizer's files
    return folders


@pytest.fixture(scope="session")
def engine_cases(
    deepspeed_run: Callable[..., Any], tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Results by "RANKSxCASE": what each case of worker_engines.py left; `folders` and `models` beside them."""
    import torch

    plan = {
        1: ("untied", ["micro4", "micro3", "export"]),
        2: ("tied", ["micro2", "micro1", "align", "ema", "ema_bf16", "nonfinite", "resume", "export"]),
    }
    found: dict[str, Any] = {"models": {ranks: tiny_models[name] for ranks, (name, _) in plan.items()}, "folders": {}}
    for ranks, (name, cases) in plan.items():
        out = tmp_path_factory.mktemp(f"ranks{ranks}")
        model = tiny_models[name]
        output = deepspeed_run(WORKER, model, out, *cases, ranks=ranks, timeout=400).output
        found |= {f"{ranks}x{case}": torch.load(out / f"{case}.pt", weights_only=True) for case in cases}
        found["folders"][ranks] = out
        found[f"{ranks}xoutput"] = output
    return found
