"""The vocabulary-sized matrix products of the fused loss and of token statistics, accumulated in at least float32.

float32 and float64 weights are multiplied as they are. bfloat16 weights: a GPU, and a CPU that has instructions for it
(`cpu_bfloat16`), multiply in bfloat16, accumulate and return float32; elsewhere the weight is widened a slice of the
vocabulary at a time, so that no float32 copy of the whole weight exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nopsd.engine import cpu_bfloat16

SLICE = 8192  # vocabulary rows widened at a time
# Tokens a tile where distill.logit_chunk is null: on a CPU more would cost memory and no less time (README), on a GPU
# fewer would leave the products waiting for the weight to be read.
CHUNK = {"cpu": 128}
GPU_CHUNK = 512


def tile_rows(stated: int | None, device: torch.device) -> int:
    """Tokens whose logits are made at a time: as stated, else the device's."""
    return stated or CHUNK.get(device.type, GPU_CHUNK)


def project(hidden_nH: Tensor, weight_VH: Tensor, out_nV: Tensor) -> None:
    """out = hidden · weightᵀ, in out's dtype."""
    if weight_VH.dtype == out_nV.dtype:
        torch.mm(hidden_nH.to(out_nV.dtype), weight_VH.t(), out=out_nV)
        return
    if _tensor_cores(weight_VH, out_nV):
        torch.mm(hidden_nH.to(weight_VH.dtype), weight_VH.t(), out_dtype=out_nV.dtype, out=out_nV)
        return
    if cpu_bfloat16.fits(hidden_nH, weight_VH, out_nV):
        cpu_bfloat16.multiply(hidden_nH, weight_VH, out_nV)
        return
    hidden_nH = hidden_nH.to(out_nV.dtype)
    for rows, part in _widened(weight_VH, out_nV.dtype):
        torch.mm(hidden_nH, part.t(), out=out_nV[:, rows])


def grad_input(grad_nV: Tensor, weight_VH: Tensor, out_nH: Tensor) -> None:
    """out = grad · weight (the gradient of the hidden states), summed in grad's dtype, whatever out's is."""
    if weight_VH.dtype == grad_nV.dtype == out_nH.dtype:
        out_nH.zero_().addmm_(grad_nV, weight_VH)
        return
    if _cpu_bfloat16(out_nH, weight_VH, grad_nV):
        torch.mm(grad_nV.to(weight_VH.dtype), weight_VH, out=out_nH)  # sums in float32, rounds once
        return
    if out_nH.dtype != grad_nV.dtype:
        wide_nH = out_nH.new_empty(out_nH.shape, dtype=grad_nV.dtype)
        grad_input(grad_nV, weight_VH, wide_nH)
        out_nH.copy_(wide_nH)
        return
    if _tensor_cores(weight_VH, grad_nV):
        torch.mm(grad_nV.to(weight_VH.dtype), weight_VH, out_dtype=grad_nV.dtype, out=out_nH)
        return
    out_nH.zero_()
    for rows, part in _widened(weight_VH, grad_nV.dtype):
        out_nH.addmm_(grad_nV[:, rows], part)


def add_weight_gradient(grad_nV: Tensor, hidden_nH: Tensor, into_VH: Tensor) -> None:
    """into += gradᵀ · hidden (the gradient of the weight), summed in grad's dtype."""
    if hidden_nH.dtype == grad_nV.dtype:
        into_VH.addmm_(grad_nV.t(), hidden_nH)
        return
    if _tensor_cores(hidden_nH, grad_nV):
        low = grad_nV.to(hidden_nH.dtype)
        torch.addmm(into_VH, low.t(), hidden_nH, out_dtype=into_VH.dtype, out=into_VH)
        return
    if _cpu_bfloat16(hidden_nH, hidden_nH, grad_nV) and len(hidden_nH) % 2 == 0:
        low_Vn, hidden_Hn = grad_nV.t().to(hidden_nH.dtype).contiguous(), hidden_nH.t().contiguous()
        if cpu_bfloat16.fits(low_Vn, hidden_Hn, into_VH):
            cpu_bfloat16.multiply(low_Vn, hidden_Hn, into_VH, add=True)
            return
    into_VH.addmm_(grad_nV.t(), hidden_nH.to(grad_nV.dtype))


def _tensor_cores(factor: Tensor, result: Tensor) -> bool:
    return factor.is_cuda and factor.dtype in (torch.bfloat16, torch.float16) and result.dtype == torch.float32


def _cpu_bfloat16(one: Tensor, other: Tensor, result: Tensor) -> bool:
    low = one.dtype == other.dtype == torch.bfloat16 and one.device.type == "cpu"
    return low and result.dtype == torch.float32 and cpu_bfloat16.available()


def _widened(weight_VH: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """The weight in `dtype`: whole if it is that already, else by slices of the vocabulary."""
    if weight_VH.dtype == dtype:
        yield slice(None), weight_VH
        return
    for start in range(0, weight_VH.shape[0], SLICE):
        rows = slice(start, start + SLICE)
        yield rows, weight_VH[rows].to(dtype)


class GradientsInForward(torch.autograd.Function):  # type: ignore[misc]
    """A loss of hidden states and a weight, its first two inputs, that forms their gradients in the forward.

    Its forward sets `ctx.gradients` (None: not needed), `ctx.weight_dtype` and `ctx.others`, how many inputs more it
    has. The backward only scales, once: no double backward, no retained graph.
    """

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the fused loss's gradient was taken already: run the forward again")
        (grad_hidden_NH, grad_weight_VH), ctx.gradients = ctx.gradients, None
        if grad_loss.is_cuda or grad_loss.item() != 1:  # a GPU would have to be waited for
            for grad in (grad_hidden_NH, grad_weight_VH):
                if grad is not None:
                    grad.mul_(grad_loss)
        if grad_weight_VH is not None:
            grad_weight_VH = grad_weight_VH.to(ctx.weight_dtype)
        return (grad_hidden_NH, grad_weight_VH, *[None] * ctx.others)
