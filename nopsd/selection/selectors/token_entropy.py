"""`token_entropy`: mean over the answer's tokens of −Σ_v p log p, nats; the lowest kept (SPEC §4)."""

from __future__ import annotations

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.selectors.base import Pool, selector


@selector(keep="low", needs=("token_entropy",), neurons=False)
def token_entropy(pool: Pool, config: SelectConfig) -> np.ndarray:
    return pool.column("token_entropy")
