"""The distribution the student is drawn to, where it isn't the teacher's own.

In: log-probabilities of a tile `[n, V]`: the student's p, the teacher's q (reading the demonstrations, then the
question), and auxiliary ones, all over the same response tokens. Out: the target's log-probabilities, in the
teacher's buffer. A target is a constant: no gradient passes through it, the student's part included.

    teacher      q
    pmi          ∝ p_base · exp(c·tanh((r − r̄)/c)/β),  r = log q − log q_ctx,  r̄ = Σ_v p_base r
                 c = distill.pmi_clip, β = distill.pmi_beta
    barycenter   ∝ q^{1−α} p^α,  α = 2 α_max (σ(β·JSD_½(p, q)) − ½) of each token
                 α_max = distill.barycenter_alpha, β = distill.barycenter_beta
    contrast     ∝ p · q / q_rand: the log-ratio log q − log p less that under the control's demonstrations

How the auxiliary distributions are read (the paper doesn't say; all are this package's choice):

    base        p_base: the teacher's weights on the student's zero-shot prompt; frozen, so θ_0
    ctx_only    q_ctx: the teacher on its prompt without the question, so what the demonstrations alone make likely:
                r is then the pointwise mutual information of token and question, given the demonstrations
    random_ctx  q_rand: the teacher on the question after demonstrations drawn at random, of another domain, or at odds
                with their questions' votes, as `distill.contrast` has it
    centred     in the mean under p_base: the likely tokens lie in the middle of tanh, and not at an end of it
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nopsd.config import DistillConfig
from nopsd.train.losses.tile import BASE, CTX_ONLY, RANDOM_CTX, Tile, dot


def form_target(tile: Tile, config: DistillConfig) -> None:
    """Put the target's log-probabilities in the place of the teacher's.

    Args:
        tile: Log-probabilities [n, V] of student and teacher, and of the objective's other distributions, which are
            left as they are; the scratch is used.
        config: `target` and `contrast`.
    """
    aux = tile.aux
    if config.contrast is not None:
        tile.teacher.sub_(aux[RANDOM_CTX]).add_(tile.student)
    elif config.target == "pmi":
        _pmi(tile, aux[BASE], aux[CTX_ONLY], config)
    elif config.target == "barycenter":
        _barycenter(tile, config)
    else:
        return
    tile.teacher.sub_(tile.teacher.logsumexp(-1, keepdim=True))


def _pmi(tile: Tile, base_nV: Tensor, context_nV: Tensor, config: DistillConfig) -> None:
    clip = config.pmi_clip
    r_nV = tile.teacher.sub_(context_nV)
    r_nV.sub_(dot(torch.exp(base_nV, out=tile.scratch), r_nV)[:, None])
    r_nV.div_(clip).tanh_().mul_(clip / config.pmi_beta).add_(base_nV)


def _barycenter(tile: Tile, config: DistillConfig) -> None:
    jsd_n = _jsd(tile)
    alpha_n = 2 * config.barycenter_alpha * (torch.sigmoid(config.barycenter_beta * jsd_n) - 0.5)
    torch.lerp(tile.teacher, tile.student, alpha_n[:, None], out=tile.teacher)


def _jsd(tile: Tile) -> Tensor:
    """JSD with β = ½ of each token; nothing is overwritten but the scratch."""
    total_n = tile.student.new_zeros(tile.student.shape[0])
    for log_nV in (tile.student, tile.teacher):
        mixture_nV = torch.logaddexp(tile.student, tile.teacher, out=tile.scratch)
        log_ratio_nV = mixture_nV.sub_(math.log(2)).neg_().add_(log_nV)
        total_n += dot(log_nV.exp(), log_ratio_nV)
    return (total_n / 2).clamp_min(0)
