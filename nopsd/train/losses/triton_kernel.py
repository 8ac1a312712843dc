"""`full_support`'s objectives on a GPU: one pass over the logits for all sums, one that writes the gradient in place.

A program takes a row. The JSD needs c = log S − log R before its terms, and so one pass more. Each function has its
like in `cpu_kernel`. float32 is added up in float32, a block of ids at a time, and float64 in float64.

Checked against the torch path under TRITON_INTERPRET=1 alone; it has not run on a GPU.

Shapes: n rows, V ids; logits may have any stride between rows. `tops`: the rows' largest logits of both sides.
"""

from __future__ import annotations

import math
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

SUMS = 6  # S, R, Σ P s, Σ Q t, Σ P (s − t), Σ Q (s − t)
BLOCK = 2048  # ids at a time
WARPS = 8
Tops = tuple[Tensor, Tensor]


def sums(student_nV: Tensor, teacher_nV: Tensor, tops: Tops, temperature: float) -> Tensor:
    """float64 [n, SUMS] with s = (z − max z)/τ, P = exp(s), S = ΣP, and t, Q, R of the teacher; reads alone."""
    found = student_nV.new_zeros(len(student_nV), SUMS)
    _launch(_sums, student_nV, teacher_nV, tops, found, temperature)
    return found.double()


def mixture_sums(
    student_nV: Tensor, teacher_nV: Tensor, tops: Tops, c_n: Tensor, beta: float, temperature: float
) -> Tensor:
    """float64 [n, 2]: Σ P log p/m and Σ Q log p/m; reads alone."""
    found, c_n = student_nV.new_zeros(len(student_nV), 2), c_n.to(student_nV.dtype)
    _launch(_mixture_sums, student_nV, teacher_nV, tops, found, temperature, c_n, beta=beta)
    return found.double()


def reverse_gradient(
    student_nV: Tensor, teacher_nV: Tensor, tops: Tops, shift_n: Tensor, scale_n: Tensor, temperature: float
) -> None:
    """z ← scale · P (s − t − shift)."""
    rows = (value.to(student_nV.dtype) for value in (shift_n, scale_n))
    _launch(_reverse_gradient, student_nV, teacher_nV, tops, student_nV, temperature, *rows)


def forward_gradient(
    student_nV: Tensor, teacher_nV: Tensor, tops: Tops, scale_n: Tensor, teacher_scale_n: Tensor, temperature: float
) -> None:
    """z ← scale · P − teacher_scale · Q."""
    rows = (value.to(student_nV.dtype) for value in (scale_n, teacher_scale_n))
    _launch(_forward_gradient, student_nV, teacher_nV, tops, student_nV, temperature, *rows)


def jsd_gradient(
    student_nV: Tensor,
    teacher_nV: Tensor,
    tops: Tops,
    c_n: Tensor,
    mean_n: Tensor,
    scale_n: Tensor,
    beta: float,
    temperature: float,
) -> None:
    """z ← scale · P (log p/m − mean)."""
    rows = (value.to(student_nV.dtype) for value in (c_n, mean_n, scale_n))
    _launch(_jsd_gradient, student_nV, teacher_nV, tops, student_nV, temperature, *rows, beta=beta)


def _launch(
    kernel: Any,
    student_nV: Tensor,
    teacher_nV: Tensor,
    tops: Tops,
    out: Tensor,
    temperature: float,
    *rows: Tensor,
    beta: float | None = None,
) -> None:
    if student_nV.stride(1) != 1 or teacher_nV.stride(1) != 1:
        raise ValueError("a row's logits must lie side by side")
    # constants of the code and not arguments: those would be rounded to float32
    constants = {"INVERSE": 1.0 / temperature, "BLOCK": BLOCK}
    if beta is not None:
        constants |= {"LOG_BETA": math.log(beta), "LOG_REST": math.log1p(-beta)}
    if len(student_nV):
        kernel[(len(student_nV),)](
            student_nV,
            teacher_nV,
            student_nV.stride(0),
            teacher_nV.stride(0),
            student_nV.shape[1],
            *(values.contiguous() for values in (*tops, *rows)),
            out,
            **constants,
            num_warps=WARPS,
        )


@triton.jit  # type: ignore[untyped-decorator]
def _scaled(row, top, ids, kept, INVERSE: tl.constexpr):  # type: ignore[no-untyped-def]
    """(z − max z)/τ; 0 past the vocabulary."""
    return tl.where(kept, (tl.load(row + ids, mask=kept, other=0.0) - top) * INVERSE, 0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _log_ratio(d, LOG_BETA: tl.constexpr, LOG_REST: tl.constexpr):  # type: ignore[no-untyped-def]
    """log p/m with m = β q + (1−β) p, of d = log p/q; out of the larger of both terms, so that nothing overflows.

    Constants are added alone: Triton 3.7's tl.maximum rounds one to float32 beside float64.
    """
    apart = (LOG_BETA - LOG_REST) - d
    return -(LOG_REST + tl.maximum(apart, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(apart))))


@triton.jit  # type: ignore[untyped-decorator]
def _sums(  # type: ignore[no-untyped-def]
    student,
    teacher,
    stride,
    teacher_stride,
    size,
    tops,
    teacher_tops,
    found,
    INVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64)
    z, y = student + i * stride, teacher + i * teacher_stride
    top, teacher_top = tl.load(tops + i), tl.load(teacher_tops + i)
    zero = tl.zeros([BLOCK], dtype=student.dtype.element_ty)
    S, R, Ps, Qt, Pd, Qd = zero, zero, zero, zero, zero, zero
    for start in range(0, size, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        kept = ids < size
        s, t = _scaled(z, top, ids, kept, INVERSE), _scaled(y, teacher_top, ids, kept, INVERSE)
        p, q = tl.where(kept, tl.exp(s), 0.0), tl.where(kept, tl.exp(t), 0.0)
        S += p
        R += q
        Ps += p * s
        Qt += q * t
        Pd += p * (s - t)
        Qd += q * (s - t)
    tl.store(found + i * 6, tl.sum(S))
    tl.store(found + i * 6 + 1, tl.sum(R))
    tl.store(found + i * 6 + 2, tl.sum(Ps))
    tl.store(found + i * 6 + 3, tl.sum(Qt))
    tl.store(found + i * 6 + 4, tl.sum(Pd))
    tl.store(found + i * 6 + 5, tl.sum(Qd))


@triton.jit  # type: ignore[untyped-decorator]
def _mixture_sums(  # type: ignore[no-untyped-def]
    student,
    teacher,
    stride,
    teacher_stride,
    size,
    tops,
    teacher_tops,
    cs,
    found,
    INVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
    LOG_BETA: tl.constexpr,
    LOG_REST: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64)
    z, y = student + i * stride, teacher + i * teacher_stride
    top, teacher_top = tl.load(tops + i), tl.load(teacher_tops + i)
    c = tl.load(cs + i)
    zero = tl.zeros([BLOCK], dtype=student.dtype.element_ty)
    of_p, of_q = zero, zero
    for start in range(0, size, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        kept = ids < size
        s, t = _scaled(z, top, ids, kept, INVERSE), _scaled(y, teacher_top, ids, kept, INVERSE)
        ratio = tl.where(kept, _log_ratio(s - t - c, LOG_BETA, LOG_REST), 0.0)
        of_p += tl.exp(s) * ratio
        of_q += tl.exp(t) * ratio
    tl.store(found + i * 2, tl.sum(of_p))
    tl.store(found + i * 2 + 1, tl.sum(of_q))


@triton.jit  # type: ignore[untyped-decorator]
def _reverse_gradient(  # type: ignore[no-untyped-def]
    student,
    teacher,
    stride,
    teacher_stride,
    size,
    tops,
    teacher_tops,
    shifts,
    scales,
    out,
    INVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64)
    top, teacher_top = tl.load(tops + i), tl.load(teacher_tops + i)
    shift, scale = tl.load(shifts + i), tl.load(scales + i)
    for start in range(0, size, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        kept = ids < size
        s = _scaled(student + i * stride, top, ids, kept, INVERSE)
        t = _scaled(teacher + i * teacher_stride, teacher_top, ids, kept, INVERSE)
        tl.store(out + i * stride + ids, tl.exp(s) * (s - t - shift) * scale, mask=kept)


@triton.jit  # type: ignore[untyped-decorator]
def _forward_gradient(  # type: ignore[no-untyped-def]
    student,
    teacher,
    stride,
    teacher_stride,
    size,
    tops,
    teacher_tops,
    scales,
    teacher_scales,
    out,
    INVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64)
    top, teacher_top = tl.load(tops + i), tl.load(teacher_tops + i)
    scale, teacher_scale = tl.load(scales + i), tl.load(teacher_scales + i)
    for start in range(0, size, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        kept = ids < size
        s = _scaled(student + i * stride, top, ids, kept, INVERSE)
        t = _scaled(teacher + i * teacher_stride, teacher_top, ids, kept, INVERSE)
        tl.store(out + i * stride + ids, tl.exp(s) * scale - tl.exp(t) * teacher_scale, mask=kept)


@triton.jit  # type: ignore[untyped-decorator]
def _jsd_gradient(  # type: ignore[no-untyped-def]
    student,
    teacher,
    stride,
    teacher_stride,
    size,
    tops,
    teacher_tops,
    cs,
    means,
    scales,
    out,
    INVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
    LOG_BETA: tl.constexpr,
    LOG_REST: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64)
    top, teacher_top = tl.load(tops + i), tl.load(teacher_tops + i)
    c, mean, scale = tl.load(cs + i), tl.load(means + i), tl.load(scales + i)
    for start in range(0, size, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        kept = ids < size
        s = _scaled(student + i * stride, top, ids, kept, INVERSE)
        t = _scaled(teacher + i * teacher_stride, teacher_top, ids, kept, INVERSE)
        ratio = _log_ratio(s - t - c, LOG_BETA, LOG_REST)
        tl.store(out + i * stride + ids, tl.exp(s) * (ratio - mean) * scale, mask=kept)
