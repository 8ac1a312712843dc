"""The objectives over the whole vocabulary, from raw logits to their gradient.

Two steps, so that clips can come between them: `measure` reads the logits and gives every token's loss and what the
log tells of it; `DivergenceResult.gradient` puts w_n ∂ℓ_n/∂z_n in the place of the student's logits z.

With s = (z − max z)/τ, P = exp(s), S = ΣP, and t, Q, R so of the teacher's logits, and d = log p − log q = s − t − c,
in which the two normalisers enter as one number of a row, c = log S − log R:

    reverse KL   ΣP d / S            gradient by z·τ   P/S (d − KL)
    forward KL   −ΣQ d / R                             P/S − Q/R
    JSD β        `tile`'s module text                  (1−β) P/S (log p/m − KL(p‖m))

The row's own sums divide P and Q, so Σp = Σq = 1 and no correction of `tile`'s kind is due.

`kernel_of` names what does it: torch, over blocks of rows that stay in a cache; `cpu_kernel` (numba) for large
float32 calls on a CPU; `triton_kernel` on a GPU. The last two keep z and y as they are between the two steps.

In: logits [n, V] of both sides, V the vocabulary proper, float32 or float64. Other objectives: `objective`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from nopsd.config import DistillConfig
from nopsd.config.distill_rules import PLAIN
from nopsd.errors import ConfigError
from nopsd.train.losses.tile import Tile, TileLoss, TileValues, canonical, clip_tokens, dot, largest, overlap

MODULES = {"numba": "nopsd.train.losses.cpu_kernel", "triton": "nopsd.train.losses.triton_kernel"}
# Logits of a call from which auto compiles: a fifth of a second less each time, and calls so large come by the hundred.
NUMBA_ELEMENTS = 1 << 25
# Logits of a block of rows: what stays in a CPU's caches, with torch's two buffers or without any; on a GPU a
# launch costs more than a cache would save.
BLOCK_ELEMENTS = {"torch": 1 << 18, "numba": 1 << 20}
GPU_BLOCK_ELEMENTS = 1 << 24

Tops = tuple[Tensor, Tensor]


@dataclass
class Normaliser:
    """log Σ_v exp(z_v / τ) in two parts `[n]`, so that no digits are lost: max z, and log Σ exp((z − max z)/τ)."""

    max: Tensor
    log_sum: Tensor  # float64
    temperature: float

    def log_probs(self, logits_nk: Tensor) -> Tensor:
        """Of some of each row's logits `[n, k]`."""
        shifted_nk = (logits_nk - self.max[:, None]) / self.temperature
        return (shifted_nk - self.log_sum[:, None]).to(logits_nk.dtype)


@dataclass
class DivergenceResult:
    """Per token `[n]`; the KLs and entropies are None if not asked for. `gradient(scale_n)` may be called once."""

    loss: Tensor
    gradient: Callable[[Tensor], object]
    student: Normaliser
    teacher: Normaliser
    reverse: Tensor | None = None
    forward: Tensor | None = None
    student_entropy: Tensor | None = None
    teacher_entropy: Tensor | None = None


def kernel_of(config: DistillConfig, like: Tensor, elements: int) -> str | None:
    """What computes the loss's element-wise part.

    Args:
        config: `distill.kernel`, and the objective; its rules refuse a named kernel for what that has no code for.
        like: Logits of the tile's device and number format.
        elements: Logits of a side.

    Returns:
        `torch`, `numba` or `triton`; None for an objective that isn't one of this file's.

    Raises:
        ConfigError: `distill.kernel` names one that can't do what is asked of it here.
    """
    name = config.kernel  # the config's rules refuse a named kernel for an objective that it has no code for
    if config.divergence not in ("reverse_kl", "forward_kl", "jsd") or any(
        getattr(config, key) != value for key, value in PLAIN.items()
    ):
        return None
    if name == "auto":
        if like.is_cuda and find_spec("triton") is not None:
            return "triton"
        fast = elements >= NUMBA_ELEMENTS and canonical(config.divergence, config.beta) != "jsd"
        return "numba" if fast and like.device.type == "cpu" and like.dtype == torch.float32 else "torch"
    if name == "triton" and not (like.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"):
        raise ConfigError("distill.kernel=triton needs a GPU: set distill.kernel=auto")
    if name == "triton" and find_spec("triton") is None:
        raise ConfigError("distill.kernel=triton needs triton (pip install triton), or set distill.kernel=auto")
    if name == "numba" and (like.device.type, like.dtype) != ("cpu", torch.float32):
        raise ConfigError(
            f"distill.kernel=numba takes float32 on a CPU, and this is {like.dtype} on {like.device.type}: "
            "set distill.kernel=auto"
        )
    return name


def full_support_loss(tile: Tile, config: DistillConfig, kernel: str) -> TileLoss:
    """The loss of one tile; its gradient by the student's logits takes their place.

    Args:
        tile: Raw logits [n, V]; overwritten.
        config: The objective.
        kernel: As `kernel_of` has it.
    """
    assert tile.token_weight is not None
    tops = sampled = None
    if tile.with_statistics:
        tops = largest(tile.student), largest(tile.teacher)
    if tile.target is not None and (tile.with_statistics or config.is_clip is not None):
        sampled = tuple(logits.gather(-1, tile.target[:, None]) for logits in (tile.student, tile.teacher))
    measured = measure(tile, config, kernel, tops and (tops[0].values[:, 0], tops[1].values[:, 0]))
    found: dict[str, Tensor] = {}
    if tops is not None:
        names = {"reverse_kl": measured.reverse, "forward_kl": measured.forward}
        names |= {"student_entropy": measured.student_entropy, "teacher_entropy": measured.teacher_entropy}
        found = {name: value for name, value in names.items() if value is not None}
        sides = zip((measured.student, measured.teacher), tops)
        found |= overlap(tops[0].ids, tops[1].ids, *(side.log_probs(top.values) for side, top in sides))
    if sampled is not None:
        found["student_logprob"] = measured.student.log_probs(sampled[0])[:, 0]
        found["teacher_logprob"] = measured.teacher.log_probs(sampled[1])[:, 0]
    values = TileValues(measured.loss, tile.student, measured.reverse, measured.forward)
    clipped = clip_tokens(values, tile, config, measured.student_entropy, found.get("student_logprob"))
    measured.gradient(tile.token_weight / config.temperature * clipped.factor)
    return TileLoss(tile.token_weight.dot(clipped.loss), found | clipped.found)


def measure(tile: Tile, config: DistillConfig, kernel: str, tops: Tops | None = None) -> DivergenceResult:
    """Losses of a tile of logits, and what its gradient is formed from.

    Args:
        tile: Raw logits [n, V]; torch overwrites them and needs both scratches.
        config: Divergence and temperature.
        kernel: As `kernel_of` has it.
        tops: The rows' largest logits, if known.
    """
    tops = tops or (tile.student.amax(-1), tile.teacher.amax(-1))
    tops = tops[0].contiguous(), tops[1].contiguous()  # numba compiles again for every other layout
    if kernel != "torch":
        return _by_kernel(import_module(MODULES[kernel]), tile, tops, config)
    assert tile.second_scratch is not None
    kind, tau = canonical(config.divergence, config.beta), config.temperature
    student_nV, teacher_nV = tile.student, tile.teacher
    wanted = tile.with_statistics or config.mask_high_entropy is not None  # both KLs and the entropies
    P, S = _exponentials(student_nV, tops[0], tau, tile.scratch)
    Q, R = _exponentials(teacher_nV, tops[1], tau, tile.second_scratch)
    log_S, log_R = S.double().log(), R.double().log()
    found = DivergenceResult(S, _nothing, Normaliser(tops[0], log_S, tau), Normaliser(tops[1], log_R, tau))
    if wanted:
        found.student_entropy = log_S.to(S.dtype) - dot(P, student_nV) / S
        found.teacher_entropy = log_R.to(R.dtype) - dot(Q, teacher_nV) / R
    exact = log_S - log_R
    c = exact.to(S.dtype)
    lost = (exact - c).to(S.dtype)  # of every d, where c is rounded to its precision
    d = student_nV.sub_(teacher_nV).sub_(c[:, None])
    mean = dot(P, d) / S if wanted or kind == "reverse_kl" else S
    forward = lost - dot(Q, d) / R if wanted or kind != "reverse_kl" else S
    if wanted:
        found.reverse, found.forward = mean - lost, forward
    if kind == "reverse_kl":
        found.loss = mean - lost
        found.gradient = lambda scale_n: d.sub_(mean[:, None]).mul_(P).mul_((scale_n / S)[:, None])
    elif kind == "forward_kl":
        found.loss = forward
        found.gradient = lambda scale_n: _difference(student_nV, P, scale_n / S, Q, scale_n / R)
    else:
        beta = config.beta
        ratio = d.neg_().add_(math.log(beta))  # in place: log p/m
        torch.logaddexp(ratio, ratio.new_tensor(math.log1p(-beta)), out=ratio)
        ratio.neg_()
        to_mixture = dot(P, ratio) / S  # KL(p‖m)
        found.loss = beta * (dot(Q, ratio) / R + forward) + (1 - beta) * to_mixture
        found.gradient = lambda scale_n: (
            ratio.sub_(to_mixture[:, None]).mul_(P).mul_(((1 - beta) * scale_n / S)[:, None])
        )
    return found


def _by_kernel(kernel: Any, tile: Tile, tops: Tops, config: DistillConfig) -> DivergenceResult:
    """`kernel`: the module `cpu_kernel` or `triton_kernel`."""
    kind, tau, dtype = canonical(config.divergence, config.beta), config.temperature, tile.student.dtype
    sides = tile.student, tile.teacher, tops
    S, R, Ps, Qt, Pd, Qd = kernel.sums(*sides, tau).unbind(-1)
    log_S, log_R = S.log(), R.log()
    c = log_S - log_R
    reverse, forward = Pd / S - c, c - Qd / R

    def gradient(scale_n: Tensor) -> None:
        if kind == "reverse_kl":
            kernel.reverse_gradient(*sides, c + reverse, scale_n / S, tau)
        elif kind == "forward_kl":
            kernel.forward_gradient(*sides, scale_n / S, scale_n / R, tau)
        else:
            kernel.jsd_gradient(*sides, c, to_mixture, (1 - beta) * scale_n / S, beta, tau)

    loss = reverse if kind == "reverse_kl" else forward
    if kind == "jsd":
        beta = config.beta
        to_mixture, teacher_part = kernel.mixture_sums(*sides, c, beta, tau).unbind(-1)
        to_mixture = to_mixture / S
        loss = beta * (teacher_part / R + forward) + (1 - beta) * to_mixture
    normalisers = Normaliser(tops[0], log_S, tau), Normaliser(tops[1], log_R, tau)
    statistics = (reverse, forward, log_S - Ps / S, log_R - Qt / R)
    return DivergenceResult(loss.to(dtype), gradient, *normalisers, *(value.to(dtype) for value in statistics))


def _exponentials(logits_nV: Tensor, top_n: Tensor, temperature: float, out_nV: Tensor) -> tuple[Tensor, Tensor]:
    """exp((z − max z)/τ) and its sums; leaves (z − max z)/τ in the place of z."""
    logits_nV.sub_(top_n[:, None])
    if temperature != 1.0:
        logits_nV.div_(temperature)
    torch.exp(logits_nV, out=out_nV)
    return out_nV, out_nV.sum(-1)


def _difference(out_nV: Tensor, P: Tensor, scale_n: Tensor, Q: Tensor, teacher_scale_n: Tensor) -> None:
    torch.mul(P, scale_n[:, None], out=out_nV).sub_(Q.mul_(teacher_scale_n[:, None]))


def _nothing(scale_n: Tensor) -> None:
    raise AssertionError("no objective was measured")
