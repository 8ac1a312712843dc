"""Sharded models hold what plain transformers' do. Else RoPE, a router's bias or a scale would be rounded unseen."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Qwen3ForCausalLM

from nopsd.engine.load_check import Checkpoint, _check_parameter_dtypes, _restore_buffers, buffers_kept, unsharded_copy
from nopsd.errors import UserError

HERE = Path(__file__).parent
ONE_OF_EACH_KIND = ("qwen3", "gemma3", "gpt2", "mixtral")  # RoPE, a scale in a buffer, none, experts made of several


def load_families():
    spec = importlib.util.spec_from_file_location("families", HERE.parent / "neurons" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Families by name -> folders of tiny models."""
    source, folder = load_families(), tmp_path_factory.mktemp("families")

    def save(names=None):
        for name in names or source.FAMILIES:
            if not (folder / name).exists():
                source.build_family_model(name).save_pretrained(folder / name)
        return {name: str(folder / name) for name in names or source.FAMILIES}

    return save


def check_on_two_ranks(folders, tmp_path):
    (tmp_path / "job.json").write_text(json.dumps({"models": folders}))
    command = [sys.executable, HERE / "worker_ranks.py", HERE / "worker_load_check.py", tmp_path / "job.json", "2"]
    env = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), timeout=600, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.engine
def test_one_of_each_kind_is_as_plain_transformers_loads_it(saved, tmp_path):
    """And weights that are not the files' are refused by the rank that holds them."""
    check_on_two_ranks(saved(ONE_OF_EACH_KIND), tmp_path)


@pytest.mark.engine
@pytest.mark.soak
def test_every_family_is_as_plain_transformers_loads_it(saved, tmp_path):
    check_on_two_ranks(saved(), tmp_path)


def test_a_rounded_buffer_gets_its_values_back(saved):
    """ZeRO-3 makes RoPE's frequencies in bfloat16: at position 3,000 the phase would be off by radians."""
    folder = saved(["qwen3"])["qwen3"]
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    right = model.model.rotary_emb.inv_freq.clone()
    model.model.rotary_emb.inv_freq.data = right.bfloat16()
    assert not torch.equal(right, right.bfloat16().float())
    _restore_buffers(model, unsharded_copy(model, torch.bfloat16), torch.bfloat16, Checkpoint(Path(folder), model))
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(model.model.rotary_emb.inv_freq, right)


def test_a_weight_that_transformers_keeps_in_float32_is_refused_by_name(saved, monkeypatch):
    """ZeRO-3 has one format for all parameters: a router would be rounded."""
    folder = saved(["qwen3"])["qwen3"]
    monkeypatch.setattr(Qwen3ForCausalLM, "_keep_in_fp32_modules_strict", {"q_norm"})
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert model.model.layers[0].self_attn.q_norm.weight.dtype == torch.float32  # transformers itself
    with pytest.raises(UserError, match=r"q_norm.weight in float32 where the model is in bfloat16.*model.dtype"):
        _check_parameter_dtypes(model, unsharded_copy(model, torch.bfloat16), torch.bfloat16, Path(folder))
    _check_parameter_dtypes(model, unsharded_copy(model, torch.float32), torch.float32, Path(folder))


def test_a_buffer_that_deepspeed_casts_is_refused_by_name():
    module = torch.nn.Module()
    module.register_buffer("inv_freq", torch.rand(4))
    with buffers_kept(module):
        module.inv_freq = module.inv_freq.clone()
    with pytest.raises(UserError, match=r"buffer inv_freq from torch.float32 to torch.bfloat16"), buffers_kept(module):
        module.inv_freq.data = module.inv_freq.bfloat16()
