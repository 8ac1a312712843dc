"""`stratified`: random questions of every kind, by clusters of neuron sets.

k-medoids of select.clusters clusters by Jaccard distance; each gives as many questions as its share of the pool, drawn
at random. The random control of selectors that look for diversity: what clusters alone do, whatever is in them.
"""

from __future__ import annotations

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.k_medoids import k_medoids
from nopsd.selection.seeded import generator, hash_uniform
from nopsd.selection.selectors.base import Pool, selector


@selector(keep="low", length_control=False)
def stratified(pool: Pool, config: SelectConfig) -> np.ndarray:
    """Collective, as `Pool.distances` is."""
    distances = pool.distances()
    clusters = min(config.clusters, len(distances))
    found = k_medoids(distances, clusters, generator(config.seed, "stratified", *pool.domains[:1]))
    return spread(np.array([hash_uniform(config.seed, "stratified", uid) for uid in pool.uids]), found.labels)


def spread(draws: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Scores whose lowest are of each cluster in proportion to its size.

    Args:
        draws: In [0, 1), one a question, [N].
        labels: Its cluster, [N].

    Returns:
        (r + draw) / n in [0, 1) for the question of r-th lowest draw of n in its cluster.
    """
    scores = np.zeros(len(draws))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place = np.argsort(np.argsort(draws[members], kind="stable"), kind="stable")
        scores[members] = (place + draws[members]) / len(members)
    return scores
