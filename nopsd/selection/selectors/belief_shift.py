"""`belief_shift`: Jensen–Shannon divergence between the answers without and with demonstrations; the highest
kept (SPEC §4; INFLOW). The signals stage samples the answers with demonstrations."""

from __future__ import annotations

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.selectors.base import Pool, selector


@selector(keep="high", needs=("belief_shift",), neurons=False)
def belief_shift(pool: Pool, config: SelectConfig) -> np.ndarray:
    return pool.column("belief_shift")
