"""NAIT's direction of a target ability, and a sample's alignment with it (arXiv 2603.13201). Pure.

    Δ_i^l = A_i^l(t_last) - A_i^l(t_first)     activations of layer l's neurons in reference example i
    v_l = first principal component of {Δ_i^l}, its sign such that mean(Δ)·v_l >= 0
    score(x) = Σ_l mean_t A^l(x, t) · v_l

Principal components are those of the centred Δ, as the term is commonly meant. All in float64.
"""

from __future__ import annotations

import numpy as np

NOISE = 1e-12  # variance, relative to the Δ's own size, that is only rounding


def principal_direction(delta_PF: np.ndarray) -> np.ndarray:
    """v [F] float64 of unit length; zeros if the P rows are equal. Deterministic, also in its sign."""
    delta = delta_PF.astype(np.float64)
    mean = delta.mean(0)
    centred = delta - mean
    if (centred**2).sum() <= NOISE * (delta**2).sum():
        return np.zeros(delta.shape[1])
    if len(delta) < delta.shape[1]:
        # The P x P Gram matrix has the covariance's non-zero eigenvalues, at a fraction of its size.
        direction = centred.T @ np.linalg.eigh(centred @ centred.T)[1][:, -1]
    else:
        direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    direction /= np.linalg.norm(direction)
    along = float(mean @ direction)
    if abs(along) <= NOISE * np.linalg.norm(mean):  # no say: the largest component is made positive
        along = float(direction[np.argmax(np.abs(direction))])
    result: np.ndarray = -direction if along < 0 else direction
    return result
