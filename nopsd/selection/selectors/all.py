"""`all`: no selection; every question that has a scored position (SPEC §4)."""

from __future__ import annotations

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.selectors.base import Pool, selector


@selector(name="all", keep="all", length_control=False, neurons=False)
def everything(pool: Pool, config: SelectConfig) -> np.ndarray:
    return np.zeros(len(pool.uids))
