"""Entropy gap ΔH between teacher and student, each on its own samples (the paper's Table 6).

H of a policy = mean over prompts of S of (mean over its rollouts' tokens of the next-token entropy). What the paper's
"per-token logprob entropy" is remains open, so three estimators are computed in one pass:

    shannon   -Σ_v p log p over the whole vocabulary
    topk20    the same sum over the 20 likeliest tokens alone: what a server's top log-probs give, a lower bound
    nll       -log p(y_t) of the sampled token: unbiased for the entropy where sampling is at temperature 1

Temperature 1 in all. Pure; no label is known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nopsd.errors import DataError
from nopsd.evaluation.bootstrap import Interval, interval, resample_counts

if TYPE_CHECKING:
    import torch

    from nopsd.signals.statistics import LogitForm

ESTIMATORS = ("shannon", "topk20", "nll")
TOP = 20


@dataclass(frozen=True)
class EntropyGap:
    """Nats a token. `gap` = teacher - student with its paired bootstrap interval over questions; below 0: the context
    informs."""

    questions: int
    student: float
    teacher: float
    gap: Interval


def token_entropies(
    hidden_TH: torch.Tensor,
    targets_T: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    form: LogitForm,
    chunk: int,
) -> torch.Tensor:
    """Entropy of the next token at each position, by three estimators.

    Args:
        hidden_TH: States that predict `targets_T`.
        targets_T: The sampled ids.
        weight_VH: The output weight.
        bias_V: Its bias, if there is one.
        form: What else makes logits of the products (`logit_form`).
        chunk: Positions whose logits are in memory at once.

    Returns:
        Nats, [3, T] float32, rows as ESTIMATORS.
    """
    import torch

    from nopsd.signals.statistics import project

    found = torch.empty(len(ESTIMATORS), len(targets_T), device=hidden_TH.device)
    for start in range(0, len(targets_T), chunk):
        piece = slice(start, start + chunk)
        log_p_CV = form(project(hidden_TH[piece], weight_VH, bias_V)).log_softmax(-1)
        top_CK = log_p_CV.topk(min(TOP, log_p_CV.shape[-1]), dim=-1).values
        found[0, piece] = -torch.einsum("cv,cv->c", log_p_CV.exp(), log_p_CV)
        found[1, piece] = -(top_CK.exp() * top_CK).sum(-1)
        found[2, piece] = -log_p_CV.gather(-1, targets_T[piece, None])[:, 0]
    return found


def question_means(uids: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """uid -> mean over its rollouts; empty responses (NaN) are left out."""
    rows: dict[str, list[float]] = {}
    for uid, value in zip(uids, values, strict=True):
        if np.isfinite(value):
            rows.setdefault(uid, []).append(float(value))
    return {uid: float(np.mean(found)) for uid, found in rows.items()}


def entropy_gap(
    student: Mapping[str, float], teacher: Mapping[str, float], resamples: int = 1000, seed: int = 0
) -> EntropyGap:
    """The gap between two sides' mean entropies, paired by question.

    Args:
        student: uid -> mean entropy in nats; `teacher` likewise. Questions that one side gave no token for are left
            out.
        resamples: For the interval.
        seed: Of the resamples.

    Raises:
        DataError: No question is left.

    Source:
        The paper's Table 6.
    """
    uids = [uid for uid in student if uid in teacher]
    if not uids:
        raise DataError("entropy gap: student and teacher have answered no common question")
    pairs_N2 = np.array([[student[uid], teacher[uid]] for uid in uids])
    gaps_N = pairs_N2[:, 1] - pairs_N2[:, 0]
    drawn_B = resample_counts(len(uids), resamples, seed) @ gaps_N / len(uids)
    own, shown = pairs_N2.mean(axis=0)
    return EntropyGap(len(uids), float(own), float(shown), interval(float(gaps_N.mean()), drawn_B))
