"""Divergence and gradient of a tile on the support that `distill.support` names, in closed form.

    full   all V ids. Without a pointwise clip this is `tile.divergence_and_gradient`, in place
    topk   the k ids to which the student (`topk_of: student`), or the target (`teacher`), gives most; with `tail`:
           bucket    the rest as class k+1: the exact divergence of the coarsened distributions, never above the full
           renorm    both sides normalised over the k ids
           stopgrad  Σ_topk p·sg(log p − log q), reverse KL alone: a value that may be negative, an unbiased zero
           none      the k terms as they are. Refused for the reverse KL: its gradient at p = q is ∇Σ_topk p, not 0.
                     Forward KL (verl's form): the minimum is at the target renormalised to the k ids, and not at it

With s = ∂ℓ/∂ log p of the classes and Σs their sum, the gradient by the logits is s − p Σs on the top-k; outside
it p (s_tail/p_tail − Σs) for the bucket, 0 for renorm and −p Σs for the others. A tile holds the whole vocabulary,
so the tail's mass is added up from the tail itself: 1 − Σ_topk p (log1mexp) would lose all digits where the top-k
hold nearly everything. k ≥ V is the full support.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import FunctionType

import torch
from torch import Tensor

from nopsd.config import ENTRY_POINTS, DistillConfig
from nopsd.errors import ConfigError
from nopsd.plugins import is_own, resolve
from nopsd.train.losses.class_terms import class_loss
from nopsd.train.losses.tile import Tile, TileValues, canonical, divergence_and_gradient, dot

GROUP = ENTRY_POINTS["distill.divergence"]  # of entry points
TokenDivergence = Callable[
    [Tensor, Tensor], Tensor
]  # log p, log q [n, V] -> a loss a token [n], differentiable by log p


def token_loss(tile: Tile, config: DistillConfig) -> TileValues:
    """Loss of each token and its gradient by the scaled logits, as the config has it.

    Args:
        tile: Log-probabilities [n, V]; overwritten. With its `with_statistics` both full-vocabulary KLs as well.
        config: Divergence, support, tail and `pointwise_clip`.
    """
    both = tile.with_statistics
    if config.divergence == "sampled_rkl":
        assert tile.target is not None
        return _sampled(tile, tile.target, both)
    if is_own(config.divergence, GROUP):
        return _own(tile, find_divergence(config.divergence), both)
    kind = canonical(config.divergence, config.beta)
    if config.support == "topk" and config.topk < tile.student.shape[-1]:
        return _topk(tile, kind, config, both)
    if config.pointwise_clip is not None:
        return _capped(tile, kind, config, both)
    return divergence_and_gradient(tile, kind, config.beta, both)


@cache
def find_divergence(name: str) -> TokenDivergence:
    """The function of a user's own that distill.divergence names; ConfigError if there is none."""
    return resolve("distill.divergence", name, {}, GROUP, FunctionType)


def _own(tile: Tile, divergence: TokenDivergence, both: bool) -> TileValues:
    """A user's own, by autograd; takes about five more buffers of the tile's size."""
    with torch.enable_grad():
        log_p_nV = tile.student.detach().clone().requires_grad_()
        loss_n = divergence(log_p_nV, tile.teacher.detach().clone())
        if loss_n.shape != log_p_nV.shape[:1]:
            raise ConfigError(
                f"distill.divergence: it gave {tuple(loss_n.shape)} for {len(log_p_nV)} tokens: return one loss a token"
            )
        (slope_nV,) = torch.autograd.grad(loss_n.sum(), log_p_nV)
    p, _, _, reverse, forward = _open(tile, both)
    return TileValues(loss_n.detach(), slope_nV.sub_(p.mul_(slope_nV.sum(-1, keepdim=True))), reverse, forward)


def _open(tile: Tile, both: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """p, d, q in the tile's buffers, and both KLs if asked for."""
    p, d, q = torch.exp(tile.student, out=tile.scratch), tile.student.sub_(tile.teacher), tile.teacher.exp_()
    if not both:
        return p, d, q, None, None
    excess = q.sum(-1) - p.sum(-1)
    return p, d, q, dot(p, d) + excess, -dot(q, d) - excess


def _capped(tile: Tile, kind: str, config: DistillConfig, both: bool) -> TileValues:
    """The full support under a pointwise clip; takes about four more buffers of the tile's size."""
    p, d, q, reverse, forward = _open(tile, both)
    found = class_loss(kind, config.beta, p, q, d, config.pointwise_clip, complete=True)
    grad = torch.sub(found.slope, p.mul_(found.slope.sum(-1, keepdim=True)), out=d)
    return TileValues(found.loss, grad, reverse, forward, found.capped)


def _topk(tile: Tile, kind: str, config: DistillConfig, both: bool) -> TileValues:
    k, tail = config.topk, config.tail
    ids_nk = (tile.student if config.topk_of == "student" else tile.teacher).topk(k).indices
    log_p_nC, log_q_nC = tile.student.gather(-1, ids_nk), tile.teacher.gather(-1, ids_nk)
    faint = _faint_tails(tile, ids_nk) if tail == "bucket" and kind == "forward_kl" else None
    p, _, q, reverse, forward = _open(tile, both)
    if tail == "renorm":
        log_p_nC, log_q_nC = log_p_nC.log_softmax(-1), log_q_nC.log_softmax(-1)
    elif tail == "bucket":
        log_p_nC, log_q_nC = (
            torch.cat([top, _tail_mass(whole, ids_nk).log()], -1) for top, whole in ((log_p_nC, p), (log_q_nC, q))
        )
        if faint is not None:
            log_p_nC[faint.rows, k:] = faint.log_mass
    p_nC, complete = log_p_nC.exp(), tail in ("bucket", "renorm")
    found = class_loss(kind, config.beta, p_nC, log_q_nC.exp(), log_p_nC - log_q_nC, config.pointwise_clip, complete)
    total_n1 = found.slope.sum(-1, keepdim=True)
    if tail == "renorm":
        p.zero_()
    elif tail == "bucket":
        p.mul_(found.slope[:, k:] / p_nC[:, k:] - total_n1)
        if faint is not None:
            p[faint.rows] = faint.share * found.slope[faint.rows, k:]
    else:
        p.mul_(-total_n1)
    p.scatter_(-1, ids_nk, (found.slope - p_nC * total_n1)[:, :k])
    return TileValues(found.loss, p, reverse, forward, found.capped)


@dataclass(frozen=True)
class _Faint:
    """Rows whose tail under the student is too small for its sum to be a number: its log, and each id's share of it."""

    rows: Tensor
    log_mass: Tensor
    share: Tensor


def _faint_tails(tile: Tile, ids_nk: Tensor) -> _Faint | None:
    """Such rows, if there are any; uses the scratch. The forward KL alone weighs them: q_tail (log q_tail − log p_tail)
    grows as log p_tail falls, and pulls p_tail up by q_tail."""
    others_nV = tile.scratch.copy_(tile.student).scatter_(-1, ids_nk, -math.inf)
    least = math.log(torch.finfo(others_nV.dtype).tiny / torch.finfo(others_nV.dtype).eps)
    rows = torch.nonzero(others_nV.amax(-1) < least)[:, 0]
    if not len(rows):
        return None
    log_mass = others_nV[rows].logsumexp(-1, keepdim=True)
    return _Faint(rows, log_mass, (others_nV[rows] - log_mass).exp())


def _tail_mass(whole_nV: Tensor, ids_nk: Tensor) -> Tensor:
    """Σ over all other ids `[n, 1]`, at least the smallest normal number; sets the given ids to 0 in place."""
    whole_nV.scatter_(-1, ids_nk, 0.0)
    return whole_nV.sum(-1, keepdim=True).clamp_min(torch.finfo(whole_nV.dtype).tiny)


def _sampled(tile: Tile, target_n: Tensor, both: bool) -> TileValues:
    """sg(log p(y) − log q(y))·log p(y): with the advantage A, the gradient is A (1[v = y] − p)."""
    ids_n1 = target_n[:, None]
    log_p_n1 = tile.student.gather(-1, ids_n1)
    advantage_n1 = log_p_n1 - tile.teacher.gather(-1, ids_n1)
    p, _, _, reverse, forward = _open(tile, both)
    grad = p.mul_(-advantage_n1).scatter_add_(-1, ids_n1, advantage_n1)
    return TileValues((advantage_n1 * log_p_n1)[:, 0], grad, reverse, forward)
