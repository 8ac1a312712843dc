"""The exported folder loads in transformers, holds the trained weights, and a false one is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nopsd.train.export import RECORD, copy_companions
from tests.rounding import LOGPROB

pytestmark = pytest.mark.slow


CASES = {"tied": (2, "export"), "untied": (1, "export_untied")}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, engine_cases: dict[str, Any]) -> tuple[str, dict[str, Any], Path]:
    """Kind of embeddings, what the case found, and the folder of its exports."""
    ranks, name = CASES[request.param]
    return request.param, engine_cases[f"{ranks}x{name}"], engine_cases["folders"][ranks]


@pytest.mark.parametrize("name", ["export", "export_parts"])
def test_the_export_gives_the_engines_logits_tied_and_untied_in_one_file_and_in_several(
    case: tuple[str, dict[str, Any], Path], name: str
):
    from transformers import AutoModelForCausalLM

    kind, found, folder = case[0], case[1], case[2] / name
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert model.config.tie_word_embeddings is (kind == "tied")
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is (kind == "tied")
    with torch.no_grad():
        logits = model.eval()(torch.tensor([found["probe"]])).logits[0]
    assert (logits - found["logits"]).abs().max() < LOGPROB
    files = sorted(p.name for p in folder.glob("*.safetensors"))
    assert (len(files) == 1) is (name == "export")
    assert (folder / "chat_template.jinja").is_file()
    assert json.loads((folder / RECORD).read_text())["max_logit_difference"] < LOGPROB


def test_it_is_the_trained_model_and_not_the_base(case: tuple[str, dict[str, Any], Path], tiny_models: Path):
    from transformers import AutoModelForCausalLM

    kind, found, _ = case
    base = AutoModelForCausalLM.from_pretrained(tiny_models / kind).eval()
    with torch.no_grad():
        assert (base(torch.tensor([found["probe"]])).logits[0] - found["logits"]).abs().max() > 1e-3


def test_falsified_weights_are_refused_and_leave_no_export(case: tuple[str, dict[str, Any], Path]):
    assert "is not the trained one" in case[1]["refused"]
    assert not (case[2] / "export_false").exists()


def test_training_goes_on_after_an_export(case: tuple[str, dict[str, Any], Path]):
    rows = case[1]["rows"]
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
