"""Estimated memory against real ZeRO-3 engines, and against the released models' known sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nopsd.cluster.doctor.memory import ModelShape, longest_micro_batch, needs_of, shape_of
from nopsd.config import load_config
from nopsd.engine.ds_config import role_configs

STATES = ("student weights", "gradients", "optimizer", "teacher weights", "EMA master")
GIB = 2**30


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 of 2.2 million parameters in layers that are large against ZeRO-3's always-gathered ones."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=2000,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.soak), "bfloat16"])
def test_states_are_as_large_as_estimated(model: Path, tmp_path: Path, dtype: str, run_ranks: Any) -> None:
    """Else `doctor` says that a model fits, and the run dies of memory hours later (or a user buys twice the GPUs)."""
    overrides = [f"model.dtype={dtype}", "teacher.kind=ema"]
    job = {"model": model, "out": tmp_path, "overrides": overrides}
    run_ranks(Path(__file__).with_name("worker_memory.py"), job, 1, 2)
    config = load_config(None, overrides)
    for ranks in (1, 2):
        parts = needs_of(config, shape_of(str(model)), ranks, *role_configs(config, "cpu", ranks)).device
        estimated = sum(parts[name] for name in STATES)
        measured = json.loads((tmp_path / f"{ranks}-0.json").read_text())
        assert 0.97 * estimated < measured < 1.15 * estimated, (ranks, measured, estimated)


QWEN3_4B = ModelShape(4_022_468_096, 388_956_160, 36, 2560, 9728, 32, 8, 128, 151936, ((2560, 4096),))


def test_a_known_model_on_known_devices() -> None:
    """Qwen3-4B in bf16: 18 bytes a parameter over the ranks for the student, 2 for a frozen teacher."""
    config = load_config("paper/biology", ["teacher.kind=frozen"])
    sums = {"data_types": {"grad_accum_dtype": "fp32"}}
    four, eight = (needs_of(config, QWEN3_4B, ranks, sums, {}).device for ranks in (4, 8))
    states = sum(four[name] for name in STATES)
    assert states == pytest.approx((18 + 2) * QWEN3_4B.parameters / 4, rel=1e-6)
    assert eight["optimizer"] == pytest.approx(four["optimizer"] / 2, rel=1e-6)
    assert eight["loss"] == four["loss"]  # what isn't sharded doesn't shrink
    kv = needs_of(config, QWEN3_4B, 4, {}, {}).kv_bytes_per_token
    assert kv == 2 * 36 * 8 * 128 * 2  # 147 KB a token


def test_what_saves_memory_saves_it() -> None:
    """Else the remedies that `doctor` names would be none."""
    base = ["teacher.kind=frozen", "teacher.context_mib=0", "train.gradient_checkpointing=false"]

    def total(*overrides: str, student: dict[str, object] | None = None) -> int:
        config = load_config("paper/biology", [*base, *overrides])
        return needs_of(config, QWEN3_4B, 4, student or {}, {}).total

    whole = total()
    assert total("train.gradient_checkpointing=true") < whole
    assert total("train.micro=1") < whole
    assert total("train.lora.r=16") < whole
    assert total("teacher.kind=live") < whole
    offload = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    config = load_config("paper/biology", base)
    needs = needs_of(config, QWEN3_4B, 4, offload, {})
    assert needs.total < whole and needs.host["optimizer"] == 12 * QWEN3_4B.parameters // 4


def test_a_micro_batch_is_its_budget_or_one_whole_sequence() -> None:
    assert longest_micro_batch(load_config(None, ["train.micro_tokens=100000"])) == 100000
    assert longest_micro_batch(load_config(None, ["train.micro_tokens=10"])) == 10240 + 8192


def test_other_trainers_hold_no_teacher_but_a_penalty_holds_the_base() -> None:
    """Else `doctor` refuses a machine that has room for fine-tuning, or lets GRPO's KL die of memory."""

    def second(method: str) -> int:
        config = load_config("paper/biology", [f"method={method}"])
        return needs_of(config, QWEN3_4B, 4, {}, {}).device["teacher weights"]

    assert second("lmsi") == second("ttrl") == 0
    assert second("intuitor") == second("nopsd") > 0


def test_second_copies_and_an_offloaded_average_are_counted_where_they_lie() -> None:
    """hpZ keeps the weights once more on each host; an EMA of an offloaded optimizer is in the host's memory."""
    shape = ModelShape(8 * 10**9, 2 * 10**8, 36, 4096, 12288, 32, 8, 128, 151_936, ())
    config = load_config(None, ["model.dtype=bfloat16", "teacher.kind=ema"])
    plain = needs_of(config, shape, 16, {}, {})
    hpz = needs_of(config, shape, 16, {"zero_optimization": {"zero_hpz_partition_size": 8}}, {})
    assert hpz.total - plain.total == 2 * 8 * 10**9 // 8
    one_host = needs_of(config, shape, 8, {"zero_optimization": {"zero_hpz_partition_size": 8}}, {})
    assert one_host.device["second copies (hpZ)"] == 0, "on one host the second copy is the first"
    offload = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    away = needs_of(config, shape, 16, offload, {})
    assert away.host["EMA master"] == 4 * 8 * 10**9 // 16 and "EMA master" not in away.device
