"""`self_certainty`: mean over the answer's tokens of KL(U‖p), nats; the highest kept (SPEC §4)."""

from __future__ import annotations

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.selectors.base import Pool, selector


@selector(keep="high", needs=("self_certainty",), neurons=False)
def self_certainty(pool: Pool, config: SelectConfig) -> np.ndarray:
    return pool.column("self_certainty")
