"""The exported folder loads in transformers, holds the trained weights, and a false one is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nopsd.distill.export import RECORD, copy_companions

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", ["export", "export_parts"])
def test_the_export_gives_the_engines_logits_tied_and_untied_in_one_file_and_in_several(
    engine_cases: dict[str, Any], ranks: int, name: str
):
    from transformers import AutoModelForCausalLM

    found, folder = engine_cases[f"{ranks}xexport"], engine_cases["folders"][ranks] / name
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert model.config.tie_word_embeddings is (ranks == 2)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is (ranks == 2)
    with torch.no_grad():
        logits = model.eval()(torch.tensor([found["probe"]])).logits[0]
    assert (logits - found["logits"]).abs().max() < 1e-4
    files = sorted(p.name for p in folder.glob("*.safetensors"))
    assert (len(files) == 1) is (name == "export")
    assert (folder / "chat_template.jinja").is_file()
    assert json.loads((folder / RECORD).read_text())["max_logit_difference"] < 1e-4


@pytest.mark.parametrize("ranks", [1, 2])
def test_it_is_the_trained_model_and_not_the_base(engine_cases: dict[str, Any], ranks: int):
    from transformers import AutoModelForCausalLM

    found = engine_cases[f"{ranks}xexport"]
    base = AutoModelForCausalLM.from_pretrained(engine_cases["models"][ranks]).eval()
    with torch.no_grad():
        assert (base(torch.tensor([found["probe"]])).logits[0] - found["logits"]).abs().max() > 1e-3


@pytest.mark.parametrize("ranks", [1, 2])
def test_falsified_weights_are_refused_and_leave_no_export(engine_cases: dict[str, Any], ranks: int):
    assert "is not the trained one" in engine_cases[f"{ranks}xexport"]["refused"]
    assert not (engine_cases["folders"][ranks] / "export_false").exists()


def test_training_goes_on_after_an_export(engine_cases: dict[str, Any]):
    rows = engine_cases["2xexport"]["rows"]
    assert len(rows) == 2 and rows[1]["grad_norm"] > 0


def test_companions_are_copied_without_weights_and_the_dtype_is_stated(tmp_path: Path):
    base, part = tmp_path / "base", tmp_path / "part"
    base.mkdir(), part.mkdir()
    (base / "config.json").write_text('{"torch_dtype": "float16", "model_type": "qwen3"}')
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin", RECORD):
        (base / name).write_text("x")
    for name in ("tokenizer.json", "generation_config.json", "merges.txt"):
        (base / name).write_text("{}")
    copy_companions(base, part, torch.bfloat16)
    copied = {p.name for p in part.iterdir()}
    assert copied == {"config.json", "generation_config.json", "merges.txt", "tokenizer.json"}
    assert json.loads((part / "config.json").read_text()) == {"model_type": "qwen3", "dtype": "bfloat16"}
