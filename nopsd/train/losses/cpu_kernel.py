"""The two KLs of `full_support` on a CPU: one pass over a row's logits for all sums, one that writes the gradient.

Compiled by numba at the first use (seconds), so that no intermediate row goes through memory: torch takes about
fourteen passes. float32 alone. Sums are taken over `BLOCK` ids in float32 and these added up in float64.
exp is Cephes' expf: n = round(x log2 e), and a polynomial for what remains; within 3e-7 of exp, relatively, for
x ≤ 0, and e^-87 below -87. NaN and infinities in the logits leave NaN in the sums.

Shapes: n rows, V ids. Threads: as many as torch's, each a share of the rows.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import float32, int32, njit
from numba.extending import intrinsic
from torch import Tensor

logging.getLogger("numba").setLevel(logging.WARNING)  # it logs its bytecode wherever the root logger is at DEBUG

BLOCK = 2048
SUMS = 6  # S, R, Σ P s, Σ Q t, Σ P (s − t), Σ Q (s − t)
KINDS = ("reverse_kl", "forward_kl")
REORDERED = {"nsz", "arcp", "contract", "reassoc"}  # not nnan, ninf: a broken model's NaN must be seen

LOG2_E, LN2_HIGH, LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
LEAST, HALF, ONE = np.float32(-87.0), np.float32(0.5), np.float32(1.0)
C5, C4, C3 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
C2, C1, C0 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)


def sums(student_nV: Tensor, teacher_nV: Tensor, tops: tuple[Tensor, Tensor], temperature: float) -> Tensor:
    """What the losses need of each row; reads alone.

    Args:
        student_nV: float [n, V], z of the student.
        teacher_nV: float [n, V], z of the teacher.
        tops: max z of both, each [n].
        temperature: τ.

    Returns:
        float64 [n, SUMS] with s = (z − max z)/τ, P = exp(s), S = ΣP, and t, Q, R of the teacher.
    """
    found = np.empty((student_nV.shape[0], SUMS), dtype=np.float64)
    _by_threads(_sums, (*_arrays(student_nV, teacher_nV, *tops), found), np.float32(1 / temperature))
    return torch.from_numpy(found)


def reverse_gradient(
    student_nV: Tensor,
    teacher_nV: Tensor,
    tops: tuple[Tensor, Tensor],
    shift_n: Tensor,
    scale_n: Tensor,
    temperature: float,
) -> None:
    """z ← scale · P (s − t − shift).

    Args:
        student_nV: float [n, V], z of the student; the gradient takes its place.
        teacher_nV: float [n, V], z of the teacher.
        tops: max z of both, each [n].
        shift_n: [n].
        scale_n: [n].
        temperature: τ.
    """
    arrays = _arrays(student_nV, teacher_nV, *tops, shift_n.float(), scale_n.float())
    _by_threads(_reverse_gradient, arrays, np.float32(1 / temperature))


def forward_gradient(
    student_nV: Tensor,
    teacher_nV: Tensor,
    tops: tuple[Tensor, Tensor],
    scale_n: Tensor,
    teacher_scale_n: Tensor,
    temperature: float,
) -> None:
    """z ← scale · P − teacher_scale · Q.

    Args:
        student_nV: float [n, V], z of the student; the gradient takes its place.
        teacher_nV: float [n, V], z of the teacher.
        tops: max z of both, each [n].
        scale_n: [n].
        teacher_scale_n: [n].
        temperature: τ.
    """
    arrays = _arrays(student_nV, teacher_nV, *tops, scale_n.float(), teacher_scale_n.float())
    _by_threads(_forward_gradient, arrays, np.float32(1 / temperature))


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(tensor.numpy() for tensor in tensors)


def _by_threads(kernel: Any, arrays: tuple[np.ndarray, ...], inverse: np.float32) -> None:
    rows = len(arrays[0])
    threads = min(torch.get_num_threads(), rows)
    if threads <= 1:
        kernel(*arrays, inverse)
        return
    ends = [rows * part // threads for part in range(threads + 1)]
    with ThreadPoolExecutor(threads - 1) as pool:  # made anew: threads kept would be lost in a forked process
        shares: list[list[Any]] = [[*(array[a:b] for array in arrays), inverse] for a, b in zip(ends, ends[1:])]
        others = [pool.submit(kernel, *share) for share in shares[1:]]
        kernel(*shares[0])
        for other in others:
            other.result()


@intrinsic  # type: ignore[untyped-decorator]
def _float_of_bits(_context: Any, _bits: Any) -> Any:
    from llvmlite import ir

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.bitcast(values[0], ir.FloatType())

    return float32(int32), generate


@njit(inline="always", fastmath=REORDERED)
def _exp(x):  # type: ignore[no-untyped-def]
    x = x if x > LEAST else LEAST
    n = np.floor(x * LOG2_E + HALF)
    x = x - n * LN2_HIGH
    x = x - n * LN2_LOW
    y = ((((C5 * x + C4) * x + C3) * x + C2) * x + C1) * x + C0
    return (y * x * x + x + ONE) * _float_of_bits((np.int32(n) + np.int32(127)) << np.int32(23))


@njit(fastmath=REORDERED, nogil=True)
def _block_sums(z, y, top, teacher_top, inverse):  # type: ignore[no-untyped-def]
    zero = np.float32(0)
    S, R, Ps, Qt, Pd, Qd = zero, zero, zero, zero, zero, zero
    for v in range(z.size):
        s, t = (z[v] - top) * inverse, (y[v] - teacher_top) * inverse
        p, q, d = _exp(s), _exp(t), s - t
        S += p
        R += q
        Ps += p * s
        Qt += q * t
        Pd += p * d
        Qd += q * d
    return S, R, Ps, Qt, Pd, Qd


@njit(nogil=True)
def _sums(student, teacher, tops, teacher_tops, found, inverse):  # type: ignore[no-untyped-def]
    rows, size = student.shape
    for i in range(rows):
        found[i] = 0.0
        for start in range(0, size, BLOCK):
            end = min(start + BLOCK, size)
            block = _block_sums(student[i, start:end], teacher[i, start:end], tops[i], teacher_tops[i], inverse)
            for k in range(SUMS):
                found[i, k] += np.float64(block[k])


@njit(fastmath=REORDERED, nogil=True)
def _reverse_gradient(student, teacher, tops, teacher_tops, shifts, scales, inverse):  # type: ignore[no-untyped-def]
    for i in range(len(student)):
        z, y, top, teacher_top, shift, scale = (
            student[i],
            teacher[i],
            tops[i],
            teacher_tops[i],
            shifts[i],
            scales[i],
        )
        for v in range(z.size):
            s = (z[v] - top) * inverse
            z[v] = _exp(s) * (s - (y[v] - teacher_top) * inverse - shift) * scale


@njit(fastmath=REORDERED, nogil=True)
def _forward_gradient(student, teacher, tops, teacher_tops, scales, teacher_scales, inverse):  # type: ignore[no-untyped-def]
    for i in range(len(student)):
        z, y, top, teacher_top, a, b = student[i], teacher[i], tops[i], teacher_tops[i], scales[i], teacher_scales[i]
        for v in range(z.size):
            z[v] = _exp((z[v] - top) * inverse) * a - _exp((y[v] - teacher_top) * inverse) * b
