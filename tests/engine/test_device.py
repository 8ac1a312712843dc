"""`model.dtype: auto` by machine: else a run would be slow, or a CPU would emulate bfloat16."""

import pytest

from nopsd.config import load_config
from nopsd.engine import device


@pytest.mark.parametrize(
    "gpu, instructions, dtype", [(True, False, "bfloat16"), (False, True, "bfloat16"), (False, False, "float32")]
)
def test_auto_is_the_machines_fast_format(gpu, instructions, dtype, monkeypatch):
    monkeypatch.setattr(device, "device", lambda: "cuda" if gpu else "cpu")
    monkeypatch.setattr(device, "cpu_multiplies_bfloat16", lambda: instructions)
    config = load_config("lab", ["model.dtype=auto"])
    settled = device.with_settled_dtype(config)
    assert (settled.model.dtype, config.model.dtype) == (dtype, "auto")  # a copy
    assert settled.model.path == config.model.path
    stated = load_config("lab", ["model.dtype=float32"])
    assert device.with_settled_dtype(stated) is stated


def test_commands_settle_it_and_the_dry_run_names_it(monkeypatch, tmp_path, capsys):
    from nopsd.cli import main

    monkeypatch.setattr(device, "cpu_multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(device, "device", lambda: "cpu")
    main(["config", "--preset", "lab", "model.dtype=auto"])
    assert "dtype: bfloat16" in capsys.readouterr().out
    main(["run", "--dry-run", "--preset", "lab", "model.dtype=auto", f"run_dir={tmp_path}"])
    out = capsys.readouterr().out
    assert "trained in bfloat16, served in bfloat16; auto is bfloat16 on a CPU that multiplies in it" in out


@pytest.mark.parametrize("limit", ["AVX2", "AVX512_CORE_VNNI", "avx512_core"])
def test_instructions_that_onednn_is_kept_from_are_not_used(limit, monkeypatch):
    """Its micro-kernel ended the process with a C++ exception, at the first product or the first test collected."""
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert not device.cpu_multiplies_bfloat16()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    assert device.cpu_multiplies_bfloat16()
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert device.cpu_multiplies_bfloat16()
