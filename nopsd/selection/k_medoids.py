"""k-medoids on a distance matrix: k-means++ seeding, then assignment and update in turn (NeuFS's settings).

Pure. Deterministic for a given generator: ties go to the lowest number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESTARTS, ITERATIONS = 10, 100


@dataclass(frozen=True)
class Clusters:
    """Medoids [k] as row numbers, each row's cluster [N] as a place in `medoids`, the sum of distances to medoids."""

    medoids: np.ndarray
    labels: np.ndarray
    cost: float


def k_medoids(
    distances_NN: np.ndarray, k: int, generator: np.random.Generator, restarts: int = RESTARTS, rounds: int = ITERATIONS
) -> Clusters:
    """The cheapest of several runs of k-medoids (the earliest of equals).

    Args:
        distances_NN: Symmetric, 0 on the diagonal.
        k: Clusters, 1 to N.
        generator: Draws each run's first medoids.
        restarts: Runs.
        rounds: Of assignment and new medoids in a run, at most.

    Raises:
        ValueError: k is not within 1 to N.
    """
    if not 1 <= k <= len(distances_NN):
        raise ValueError(f"{k} clusters of {len(distances_NN)} rows")
    runs = [_alternate(distances_NN, _seeds(distances_NN, k, generator), rounds) for _ in range(restarts)]
    return min(runs, key=lambda run: run.cost)


def _seeds(distances_NN: np.ndarray, k: int, generator: np.random.Generator) -> np.ndarray:
    """k different rows, each drawn in proportion to its squared distance to those drawn before (k-means++)."""
    seeds = [int(generator.integers(len(distances_NN)))]
    free = np.ones(len(distances_NN))
    free[seeds] = 0
    nearest = distances_NN[seeds[0]].astype(np.float64)
    while len(seeds) < k:
        weight = free * nearest**2
        summed = np.cumsum(weight if weight.any() else free)  # fewer different rows than clusters: any row left
        seeds.append(int(np.searchsorted(summed, generator.random() * summed[-1], side="right")))
        free[seeds[-1]] = 0
        nearest = np.minimum(nearest, distances_NN[seeds[-1]])
    return np.sort(np.array(seeds))


def _alternate(distances_NN: np.ndarray, medoids: np.ndarray, rounds: int) -> Clusters:
    labels = assign(distances_NN, medoids)
    for _ in range(rounds):
        moved = np.sort(_update(distances_NN, medoids, labels))
        if np.array_equal(moved, medoids):
            break
        medoids = moved
        labels = assign(distances_NN, medoids)
    cost = distances_NN[np.arange(len(labels)), medoids[labels]].sum(dtype=np.float64)
    return Clusters(medoids, labels, float(cost))


def assign(distances_NN: np.ndarray, medoids: np.ndarray) -> np.ndarray:
    """Each row's nearest medoid; a medoid is its own, also where another row equals it."""
    labels = np.argmin(distances_NN[:, medoids], axis=1)
    labels[medoids] = np.arange(len(medoids))
    result: np.ndarray = labels
    return result


def _update(distances_NN: np.ndarray, medoids: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Each cluster's row of least summed distance to the others; the medoid stays unless another is nearer."""
    by_cluster = np.argsort(labels, kind="stable")
    edges = np.searchsorted(labels[by_cluster], np.arange(len(medoids) + 1))
    moved = medoids.copy()
    for cluster, (start, stop) in enumerate(zip(edges, edges[1:])):
        members = by_cluster[start:stop]
        if len(members) > 2:  # of two, either is as good
            sums = distances_NN[np.ix_(members, members)].sum(axis=1, dtype=np.float64)
            best = int(np.argmin(sums))
            if sums[best] < sums[np.searchsorted(members, medoids[cluster])]:
                moved[cluster] = members[best]
    return moved
