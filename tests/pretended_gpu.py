"""A GPU's matrix products on the CPU: half-precision factors, sums and results in float32.

PyTorch has them for CUDA alone. Given to its CPU backend, the code for GPUs runs here as it is, arguments included.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def half_precision_products() -> Iterator[None]:
    """`torch.mm` and `torch.addmm` take `out_dtype` for as long as the block lasts."""
    library = torch.library.Library("aten", "IMPL", "CPU")
    library.impl("mm.dtype", _mm)
    library.impl("mm.dtype_out", lambda *given, out: out.copy_(_mm(*given)))
    library.impl("addmm.dtype_out", _addmm_out)
    try:
        yield
    finally:
        library._destroy()


def _mm(left: Tensor, right: Tensor, out_dtype: torch.dtype) -> Tensor:
    assert left.dtype == right.dtype != out_dtype
    return left.to(out_dtype) @ right.to(out_dtype)


def _addmm_out(added: Tensor, left: Tensor, right: Tensor, out_dtype: torch.dtype, *, out: Tensor, **_: Any) -> Tensor:
    return out.copy_(added + _mm(left, right, out_dtype))
