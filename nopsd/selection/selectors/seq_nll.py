"""`seq_nll`: mean −log p of the answer's tokens, nats; the lowest kept (SPEC §4)."""

from __future__ import annotations

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.selectors.base import Pool, selector


@selector(keep="low", needs=("seq_nll",), neurons=False)
def seq_nll(pool: Pool, config: SelectConfig) -> np.ndarray:
    return pool.column("seq_nll")
