"""Evaluation metrics as pure functions. All are fractions in [0, 1] unless a docstring says else.

Shapes: N questions, k samples a question. `correct_Nk` is boolean, a sample right or not;
`vote_N` boolean, the majority answer right or not; `share_N` the majority answer's share of the k
samples, which is the confidence of calibration. A question no sample of which could be parsed is
wrong with confidence 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nopsd.data.majority import majority

Array = NDArray[np.float64]
Booleans = NDArray[np.bool_]


def majority_answer(answers: Sequence[str | None]) -> tuple[str | None, float]:
    """(most frequent parsed answer, its share of *all* samples); ties go to the first seen, as in TTRL."""
    answer, count = majority(answers)
    return answer, count / len(answers) if answers else 0.0


def avg_at_k(correct_Nk: Booleans) -> float:
    """Avg@k: the mean over questions of the share of right samples."""
    return float(np.asarray(correct_Nk, dtype=float).mean(axis=1).mean())


def maj_at_k(vote_N: Booleans) -> float:
    """maj@k: the share of questions whose majority answer is right."""
    return float(np.asarray(vote_N, dtype=float).mean())


def pass_at_k(correct_Nk: Booleans, k: int) -> float:
    """pass@k, unbiased: the mean over questions of 1 − C(n−c, k) / C(n, k).

    Args:
        correct_Nk: Which of a question's n samples are right; c of them.
        k: At most n.
    """
    return float(pass_per_question(correct_Nk, k).mean())


def pass_per_question(correct_Nk: Booleans, k: int) -> Array:
    """The questions' terms of pass@k, shape N; the product form never forms a large binomial."""
    correct = np.asarray(correct_Nk, dtype=bool)
    n = correct.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs 1 <= k <= {n} samples")
    wrong_N = n - correct.sum(axis=1)
    drawn = np.arange(k)
    # C(w, k) / C(n, k) = prod_j (w - j) / (n - j), and 0 as soon as w < k.
    ratio_Nk = np.clip(wrong_N[:, None] - drawn, 0, None) / (n - drawn)
    passed_N: Array = 1.0 - ratio_Nk.prod(axis=1)
    return passed_N


def calibration_bins(share_N: Sequence[float] | Array, bins: int) -> NDArray[np.intp]:
    """The bin of each confidence: `bins` equal widths on [0, 1], right edges included, 0 in the first."""
    # A share is a count over k: rounding keeps 3/5 on the edge that float arithmetic would miss.
    edges = np.round(np.asarray(share_N, dtype=float) * bins, 9)
    return np.clip(np.ceil(edges).astype(np.intp) - 1, 0, bins - 1)


def calibration_gaps(share_N: Sequence[float] | Array, vote_N: Booleans, bins: int) -> Array:
    """Each question's part of the expected calibration error.

    ECE is the sum over columns of |column mean over N|, which makes resampling it a matrix product.

    Args:
        share_N: Confidence: the majority's share.
        vote_N: Whether the majority is right.
        bins: Equal widths on [0, 1].

    Returns:
        [N, bins]: (right − confidence) in the column of a question's bin, 0 elsewhere.
    """
    share = np.asarray(share_N, dtype=float)
    gaps = np.zeros((len(share), bins))
    gaps[np.arange(len(share)), calibration_bins(share, bins)] = np.asarray(vote_N, dtype=float) - share
    return gaps


def ece(share_N: Sequence[float] | Array, vote_N: Booleans, bins: int = 15) -> float:
    """Expected calibration error: the sum over bins of n_b / N · |accuracy in b − mean confidence in b|.

    Args:
        share_N: Confidence: the majority's share.
        vote_N: Whether the majority is right.
        bins: Equal widths on [0, 1]; the paper's 15.
    """
    return float(np.abs(calibration_gaps(share_N, vote_N, bins).mean(axis=0)).sum())


def unparsed_share(answers: Sequence[Sequence[str | None]]) -> float:
    """Share of all samples that gave no answer that could be read."""
    flat = [a is None for row in answers for a in row]
    return float(np.mean(flat))


def truncated_share(finish_reasons: Sequence[Sequence[str]]) -> float:
    """Share of all samples cut at the token limit."""
    flat = [reason == "length" for row in finish_reasons for reason in row]
    return float(np.mean(flat))


def distinct_answers(answers: Sequence[Sequence[str | None]]) -> float:
    """Mean number of different parsed answers a question got."""
    return float(np.mean([len({a for a in row if a is not None}) for row in answers]))


def mean_length(lengths: Sequence[Sequence[int]]) -> float:
    """Mean response length, tokens."""
    return float(np.mean([length for row in lengths for length in row]))
