"""`dual_neufs`: strong answers from every region of the pool (NeuFS, arXiv 2607.02423).

k-medoids by Jaccard distance of N_K, k = the budget; in each cluster, with ~ for min-max inside it,
score = tau Q~ + (1 - tau)(1 - D~);   Q = |N_act| = s,   D = distance to the medoid;   the best one is kept
"""

from __future__ import annotations

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.k_medoids import k_medoids
from nopsd.selection.seeded import generator
from nopsd.selection.selectors.base import Clustered, Pool, selector, without_length


@selector(keep="high", length_control=False)
def dual_neufs(pool: Pool, config: SelectConfig) -> Clustered:
    """Collective, as `Pool.distances` is. `length_control` acts on Q: D has nothing to do with length."""
    distances = pool.distances()
    found = k_medoids(distances, pool.budget, generator(config.seed, "dual_neufs", *pool.domains[:1]))
    quality = pool.counts.astype(np.float64)
    if config.length_control == "residual":
        quality = without_length(quality, pool.lengths)
    distance = distances[np.arange(len(quality)), found.medoids[found.labels]].astype(np.float64)
    scores = config.tau * min_max(quality, found.labels) + (1 - config.tau) * (1 - min_max(distance, found.labels))
    return Clustered(scores, found.labels)


def min_max(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(v - min) / (max - min) inside each cluster; 0 where a cluster's values are equal."""
    low, high = np.full((2, int(labels.max(initial=-1)) + 1), [[np.inf], [-np.inf]])
    np.minimum.at(low, labels, values)
    np.maximum.at(high, labels, values)
    width = (high - low)[labels]
    result: np.ndarray = np.divide(values - low[labels], width, out=np.zeros(len(values)), where=width > 0)
    return result
