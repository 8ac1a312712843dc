"""`facility_location`: questions of which every one of the pool has a similar one.

    f(S) = Σ_i max_{j in S} s_ij,  s = max(0, similarity);  greedily the largest gain Σ_i max(0, s_ij − max_{S} s_i)

f is submodular, so greedy reaches at least 1 − 1/e of the best (Nemhauser et al. 1978), and a gain computed earlier
bounds a later one: lazy greedy (Minoux 1978) computes few of them again and picks the same.
"""

from __future__ import annotations

import heapq

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.selectors.base import Pool, selector
from nopsd.selection.selectors.spaces import Space, in_order, space_of

BLOCK = 1 << 23  # similarities in memory at once


@selector(keep="low", length_control=False, neurons=False)
def facility_location(pool: Pool, config: SelectConfig) -> np.ndarray:
    """Lazy greedy in select.space."""
    return in_order(most_covering(space_of(pool, config), len(pool.uids), pool.budget), len(pool.uids))


def most_covering(space: Space, size: int, budget: int) -> list[int]:
    """Places in the order of picking; of equal gains the first.

    Args:
        space: How alike `size` questions are.
        size: N.
        budget: How many to pick, 1 to N.
    """
    heap = [(-gain, place, 0) for place, gain in enumerate(_alone(space, size))]
    heapq.heapify(heap)
    picked: list[int] = []
    covered = np.zeros(size)
    while len(picked) < budget:
        _, place, known_at = heap[0]
        near = space.alike(np.array([place]))[0]
        if known_at < len(picked):
            heapq.heapreplace(heap, (-float(np.maximum(near - covered, 0).sum()), place, len(picked)))
            continue
        heapq.heappop(heap)
        picked.append(place)
        covered = np.maximum(covered, near)
    return picked


def _alone(space: Space, size: int) -> list[float]:
    """Each question's gain before any is picked."""
    rows = max(1, BLOCK // size)
    blocks = (space.alike(np.arange(first, min(first + rows, size))) for first in range(0, size, rows))
    return [float(np.maximum(row, 0).sum()) for block in blocks for row in block]
