"""The device that this machine computes on, and the number format that it multiplies fast."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nopsd.config import Config


def device() -> str:
    """`cuda` where PyTorch sees a GPU and nobody asked for the CPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu" else "cpu"


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16 numbers (AMX, AVX512-BF16) that oneDNN may use."""
    import torch

    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL"
    if not any(name in limit.upper() for name in ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "AVX10")):
        return False  # its micro-kernel would end the process
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fast_dtype() -> tuple[str, str]:
    """What `model.dtype: auto` means on this machine, and why."""
    if device() == "cuda":
        return "bfloat16", "a GPU"
    if cpu_multiplies_bfloat16():
        return "bfloat16", "a CPU that multiplies in it"
    return "float32", "a CPU without bfloat16 products"


def with_settled_dtype(config: Config) -> Config:
    """The configuration with `model.dtype: auto` replaced by this machine's."""
    if config.model.dtype != "auto":
        return config
    return replace(config, model=replace(config.model, dtype=fast_dtype()[0]))
