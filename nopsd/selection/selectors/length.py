"""`length`: scored tokens T of the answer, shortest kept (SPEC §4). What s(x) must beat if it is to
be more than length (F12)."""

from __future__ import annotations

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.selectors.base import Pool, selector


@selector(keep="low", length_control=False, neurons=False)
def length(pool: Pool, config: SelectConfig) -> np.ndarray:
    return pool.lengths.astype(np.float64)
