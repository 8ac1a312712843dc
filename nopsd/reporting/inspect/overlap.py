"""How neuron sets overlap over a pool: distances of a sample, its order and map, chance, nearest questions.

In: id lists [N, K] padded with -1, per-layer member counts [N, L], layer widths [L]. Out: plain arrays. Pure.
Distances are selection's (`nopsd.selection.jaccard`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from nopsd.evaluation.metrics import Array
from nopsd.selection.jaccard import jaccard_distances

SAMPLE = 200  # questions on the overlap map


@dataclass(frozen=True)
class Overlap:
    """A sample of n questions in the order of average-linkage clustering: neighbours stand together."""

    rows: np.ndarray  # [n] places in the pool
    distances: Array  # [n, n] Jaccard distances J, 0 on the diagonal
    map_n2: Array  # [n, 2] classical scaling of the distances
    map_share: float  # of the distances' inertia that the two axes show
    chance: float  # mean J if members were drawn at random from all neurons
    chance_by_layer: float  # the same, drawn within layers, each set keeping its own members per layer

    @property
    def pairs(self) -> Array:
        """J of each pair of different questions, once."""
        return self.distances[np.triu_indices(len(self.rows), 1)]


@dataclass(frozen=True)
class Near:
    """One of a question's nearest: its place in the pool, J, shared neurons in all and by layer [L]."""

    row: int
    distance: float
    shared: int
    by_layer: np.ndarray


def overlap(
    ids_NK: np.ndarray, histogram_NL: np.ndarray, widths: Sequence[int], sample: int = SAMPLE, seed: int = 0
) -> Overlap | None:
    """Distances of a seeded sample of the pool.

    Args:
        ids_NK: int [N, K], the sets' neurons, padded with -1.
        histogram_NL: int [N, L], neurons of each layer.
        widths: Neurons that each layer has.
        sample: Questions, at most.
        seed: Of the sample.

    Returns:
        None with fewer than three questions.
    """
    if len(ids_NK) < 3:
        return None
    drawn = np.random.default_rng(seed).permutation(len(ids_NK))[:sample]
    distances = jaccard_distances(ids_NK[drawn], ids_NK[drawn], sum(widths))
    np.fill_diagonal(distances, 0.0)  # an empty set is at distance 1 even from itself
    order = leaves_list(linkage(squareform(distances, checks=False), "average", optimal_ordering=True))
    rows, distances = drawn[order], distances[np.ix_(order, order)]
    map_n2, share = classical_scaling(distances)
    sizes = histogram_NL[rows].sum(1, keepdims=True)
    whole = chance_distance(sizes, [sum(widths)])
    return Overlap(rows, distances, map_n2, share, whole, chance_distance(histogram_NL[rows], widths))


def classical_scaling(distances: Array) -> tuple[Array, float]:
    """Torgerson's principal coordinates [n, 2], signs fixed, and their share of the positive inertia."""
    squared = distances**2
    centred = squared - squared.mean(0) - squared.mean(1)[:, None] + squared.mean()
    values, vectors = linalg.eigh(-0.5 * centred)
    values, vectors = values[::-1], vectors[:, ::-1]
    positive = np.maximum(values, 0)
    axes = vectors[:, :2] * np.sqrt(positive[:2])
    largest = np.abs(axes).argmax(0)
    axes = axes * np.where(axes[largest, [0, 1]] < 0, -1.0, 1.0)
    return axes, float(positive[:2].sum() / positive.sum()) if positive.sum() > 0 else 0.0


def chance_distance(members_NL: np.ndarray, widths: Sequence[int]) -> float:
    """Mean J over pairs if each set drew its members of each layer at random: expected intersections (of the
    hypergeometric distribution, a b / width) in place of actual ones."""
    members = np.asarray(members_NL, dtype=float)
    common = members / np.asarray(widths, dtype=float) @ members.T
    size = members.sum(1)
    union = size[:, None] + size[None] - common
    distances = 1 - common / np.maximum(union, 1e-12)
    return float(distances[np.triu_indices(len(members), 1)].mean())


def nearest(row: int, distances_N: Array, ids_NK: np.ndarray, widths: Sequence[int], m: int) -> list[Near]:
    """The questions nearest to one, ties in the pool's order.

    Args:
        row: Of the pool.
        distances_N: Jaccard distances of `row` to every question, [N].
        ids_NK: int [N, K], the sets' neurons, padded with -1.
        widths: Neurons that each layer has.
        m: How many.
    """
    order = np.argsort(distances_N, kind="stable")
    ends = np.cumsum(widths)
    own = ids_NK[row][ids_NK[row] >= 0]
    found = []
    for other in [int(o) for o in order if o != row][:m]:
        shared = np.intersect1d(own, ids_NK[other][ids_NK[other] >= 0])
        layers = np.bincount(np.searchsorted(ends, shared, side="right"), minlength=len(widths))
        found.append(Near(other, float(distances_N[other]), len(shared), layers))
    return found


def nearest_of(rows: Sequence[int], ids_NK: np.ndarray, widths: Sequence[int], m: int) -> list[list[Near]]:
    """`nearest` of several questions among the whole pool.

    Args:
        rows: Of the pool.
        ids_NK: int [N, K], the sets' neurons, padded with -1.
        widths: Neurons that each layer has.
        m: How many of each.
    """
    distances_QN = jaccard_distances(ids_NK[list(rows)], ids_NK, sum(widths))
    return [nearest(row, distances, ids_NK, widths, m) for row, distances in zip(rows, distances_QN)]
