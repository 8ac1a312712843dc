"""`nait`: alignment of the activations with a target ability's direction; the highest kept (SPEC §4; NAIT,
arXiv 2603.13201). The signals stage computes it from signal.reference."""

from __future__ import annotations

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.selectors.base import Pool, selector


@selector(keep="high", needs=("nait",), neurons=False)
def nait(pool: Pool, config: SelectConfig) -> np.ndarray:
    return pool.column("nait")
