"""`neuron_density`: questions whose answers are like many others' in neurons. Ours, not the paper's (README).

    score(x) = mean J(x, x') over the `budget` questions x' with the nearest neuron sets; the lowest are kept

The paper's count looks at one answer. Where most answers of a pool are right, right answers resemble each other,
and each wrong one is wrong in its own way: the dense part of the pool is its clean part. The neighbourhood is as large
as what is to be kept, so one tight cluster of a few questions does not win, and there is nothing to tune.
"""

from __future__ import annotations

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.selectors.base import Pool, selector


@selector(keep="low")
def neuron_density(pool: Pool, config: SelectConfig) -> np.ndarray:
    """Collective, as `Pool.distances` is."""
    return nearest_mean(pool.distances(), pool.budget)


def nearest_mean(distances_NN: np.ndarray, nearest: int) -> np.ndarray:
    """Mean distance of each row to its nearest others.

    Args:
        distances_NN: Symmetric.
        nearest: How many others; all of them, if there are fewer.

    Returns:
        [N]; 0 for a lone row.
    """
    nearest = min(nearest, len(distances_NN) - 1)
    if nearest < 1:
        return np.zeros(len(distances_NN))
    # each row's own 0 is among its nearest + 1 least, and adds nothing
    least = (np.partition(row, nearest)[: nearest + 1] for row in distances_NN)
    return np.array([part.sum(dtype=np.float64) / nearest for part in least])
