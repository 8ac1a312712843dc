"""How alike a domain's questions are in select.space, a few rows at a time.

    embedding        cos of the answers' mean last hidden states
    jaccard          |N(x) ∩ N(x')| / |N(x) ∪ N(x')| of the neuron sets, 1 − the paper's distance
    representation   cos of φ = [s; Δ], where an answer's states start and how far they go (SHIFT, arXiv 2605.28631)

All ranks hold all questions' columns and compute the same; `jaccard` is collective, as `Pool.distances` is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.cosine import cosines, nearest_to_mean, on_grid
from nopsd.selection.pool import Pool

DIGITS = 7  # of float32, in which Jaccard distances come


@dataclass(frozen=True)
class Space:
    """`alike(places [k])`: similarities [k, N], 1 to the question itself. `centre`: the question nearest to all.

    `chord`: distances are those of unit vectors' ends, √(2 − 2 cos), as SHIFT weights them; else 1 − similarity.
    """

    alike: Callable[[np.ndarray], np.ndarray]
    centre: int
    chord: bool = False

    def apart(self, place: int) -> np.ndarray:
        """Distances [N] to the question at `place`."""
        distances = 1.0 - self.alike(np.array([place]))[0]
        result: np.ndarray = np.sqrt(2 * distances) if self.chord else distances
        return result


def space_of(pool: Pool, config: SelectConfig) -> Space:
    """The pool in select.space; DataError if its column is missing or not finite."""
    if config.space == "jaccard":
        distances = pool.distances()
        centre = int(np.argmin(distances.sum(axis=1, dtype=np.float64)))
        return Space(lambda places: np.round(1.0 - distances[places].astype(np.float64), DIGITS), centre)
    grid = on_grid(pool.column(config.space), pool.uids, config.space)
    return Space(lambda places: cosines(grid[places], grid), nearest_to_mean(grid), config.space == "representation")


def unlike(order: np.ndarray, space: Space, most_alike: float, budget: int) -> np.ndarray:
    """DEITA's filter (arXiv 2312.15685): walk down an order and keep what is not too much like anything kept.

    Args:
        order: Places, best first.
        space: How alike questions are.
        most_alike: The largest similarity to a question that is kept already.
        budget: How many to keep, at most.

    Returns:
        The places kept, in their order.
    """
    kept: list[int] = []
    nearest = np.full(int(order.max()) + 1, -np.inf)
    for place in order.tolist():
        if nearest[place] > most_alike:
            continue
        kept.append(place)
        if len(kept) == budget:
            break
        nearest = np.maximum(nearest, space.alike(np.array([place]))[0][: len(nearest)])
    return np.array(kept, dtype=np.int64)


def in_order(picked: list[int], size: int) -> np.ndarray:
    """Scores [size] of questions picked one after another: each one's place; all others have the next."""
    scores = np.full(size, float(len(picked)))
    scores[picked] = np.arange(len(picked))
    return scores
