"""Which questions several selectors would choose of the same pool, and how far they choose the same. Pure.

In: a pool with whatever columns there are. Out: a selection by name, of those selectors whose columns are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.pool import Pool
from nopsd.selection.selectors import SELECTORS, select
from nopsd.signals.needs import SPACED, SPACES


def selections(pool: Pool, config: SelectConfig) -> dict[str, frozenset[str]]:
    """What each selector of ours would choose: exactly as many as `config` asks for, by its own end of the scores.

    Args:
        pool: All questions. Without `pairs`, selectors that compare neuron sets are left out.
        config: The run's; its selector, ties, end, quality and redundancy don't matter.

    Returns:
        Uids by selector; those whose columns are missing or not finite are left out, and `all`.
    """
    plain = replace(config, ties="exact", keep=None, quality=None, redundancy=None, exclude_truncated=False)
    found = {}
    for name, selector in SELECTORS.items():
        space = _space(config.space, pool) if name in SPACED else config.space
        compares = selector.neurons and name in ("dual_neufs", "neuron_density", "stratified") or space == "jaccard"
        if selector.keep == "all" or not all(_known(pool, column) for column in selector.needs):
            continue
        if compares and pool.pairs is None:
            continue
        chosen = select(pool, replace(plain, selector=name, space=space))
        found[f"{name} ({space})" if name in SPACED else name] = frozenset(chosen.uids)
    return found


def shares(chosen: Mapping[str, frozenset[str]]) -> np.ndarray:
    """|A ∩ B| / |A| of each pair, [n, n] in the order of `chosen`: those of A (row) that B (column) has."""
    sets = list(chosen.values())
    return np.array([[len(a & b) / len(a) for b in sets] for a in sets]).reshape(len(sets), len(sets))


def _space(space: str, pool: Pool) -> str:
    """The run's, if its column is there."""
    return space if space in SPACES and _known(pool, SPACES[space]) else "jaccard"


def _known(pool: Pool, column: str) -> bool:
    if column not in pool.columns:
        return False
    values = np.asarray(pool.columns[column], dtype=np.float64)[pool.lengths > 0]
    return bool(np.isfinite(values).all())
