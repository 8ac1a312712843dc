"""`majority_conf`: share of the answers that agree with the majority answer; the surest kept (SPEC §4)."""

from __future__ import annotations

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.selectors.base import Pool, selector


@selector(keep="high", needs=("majority_conf",), neurons=False)
def majority_conf(pool: Pool, config: SelectConfig) -> np.ndarray:
    return pool.column("majority_conf")
