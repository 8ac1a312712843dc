"""Products of bfloat16 matrices summed in float32, on CPUs that have instructions for them.

torch.mm of bfloat16 matrices rounds its result to bfloat16 on a CPU, where `out_dtype` isn't implemented. oneDNN's
micro-kernel (brgemm) writes its float32 sums; libtorch exports it, for extensions, and we call it there. Without the
symbol, the instructions, or a right result of a small product, `available` is False and callers widen.

The right factor is read in pairs of rows, [K/2, N, 2]. A row-major [N, K] seen as pairs is [N, K/2] of 32-bit words:
its transpose is that layout.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nopsd.engine.device import cpu_multiplies_bfloat16

COLUMNS = 512  # of a product at a time, so that the reordered factor stays in the cache
_BRGEMM = "_ZN2at6native7cpublas6brgemmEllllllbPKN3c108BFloat16ES5_Pfb"
_RELEASE = "_ZN2at6native7cpublas14brgemm_releaseEb"
_EXAMPLE = 64  # rows and columns of the trial product


@cache
def available() -> bool:
    """Whether this process can use the micro-kernel: decided once, by a product of known result."""
    if not (cpu_multiplies_bfloat16() and torch.backends.mkldnn.enabled and _library() is not None):
        return False
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.randn(_EXAMPLE, _EXAMPLE, generator=draw).bfloat16() for _ in range(2))
    out = torch.ones(_EXAMPLE, _EXAMPLE)
    multiply(left, right, out, add=True)
    return bool(torch.allclose(out, 1 + left.float() @ right.float().t(), rtol=1e-5, atol=1e-4))


def fits(left_MK: Tensor, right_NK: Tensor, out_MN: Tensor) -> bool:
    """Whether `multiply` takes such matrices."""
    factors = (left_MK, right_NK)
    return (
        all(f.device.type == "cpu" and f.dtype == torch.bfloat16 and f.stride(1) == 1 for f in factors)
        and out_MN.dtype == torch.float32
        and out_MN.stride(1) == 1
        and left_MK.shape[1] % 2 == 0
        and right_NK.stride(0) % 2 == 0
        and right_NK.storage_offset() % 2 == 0
        and min(*left_MK.shape, *right_NK.shape) > 0
        and available()
    )


def multiply(left_MK: Tensor, right_NK: Tensor, out_MN: Tensor, add: bool = False) -> None:
    """out = left · rightᵀ, or out += it; the factors in bfloat16, products and sums in float32."""
    pairs = right_NK.view(torch.int32)
    starts = range(0, right_NK.shape[0], COLUMNS)

    def part(start: int) -> None:
        block = pairs[start : start + COLUMNS].t().contiguous()
        _call(left_MK, block, out_MN[:, start : start + COLUMNS], add)

    threads = torch.get_num_threads()
    if threads == 1 or len(starts) == 1:
        for start in starts:
            part(start)
    else:
        list(_pool(threads).map(part, starts))


def _call(left_MK: Tensor, pairs: Tensor, out_MN: Tensor, add: bool) -> None:
    library: Any = _library()
    rows, depth, columns = left_MK.shape[0], left_MK.shape[1], pairs.shape[1]
    sizes = (rows, columns, depth, left_MK.stride(0), columns, out_MN.stride(0))
    library.multiply(*sizes, add, left_MK.data_ptr(), pairs.data_ptr(), out_MN.data_ptr(), True)
    library.release(True)


class _Library:
    """The two functions of libtorch, typed."""

    def __init__(self, multiply: Callable[..., None], release: Callable[..., None]) -> None:
        self.multiply, self.release = multiply, release


@cache
def _library() -> _Library | None:
    file = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not file.exists():
        return None
    loaded = ctypes.CDLL(str(file))
    if not (hasattr(loaded, _BRGEMM) and hasattr(loaded, _RELEASE)):
        return None
    multiply, release = getattr(loaded, _BRGEMM), getattr(loaded, _RELEASE)
    pointer, flag = ctypes.c_void_p, ctypes.c_bool
    multiply.argtypes = [ctypes.c_int64] * 6 + [flag, pointer, pointer, pointer, flag]
    release.argtypes = [flag]
    multiply.restype = release.restype = None
    return _Library(multiply, release)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="bfloat16")
