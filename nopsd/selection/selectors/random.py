"""`random`: the control, uniform and seeded (SPEC §4)."""

from __future__ import annotations

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.seeded import uniform
from nopsd.selection.selectors.base import Pool, selector


@selector(name="random", keep="low", length_control=False, neurons=False)
def random_draw(pool: Pool, config: SelectConfig) -> np.ndarray:
    """In [0, 1), from seed and uid alone: a question's draw does not depend on the others."""
    return np.array([uniform(config.seed, "select", uid) for uid in pool.uids])
