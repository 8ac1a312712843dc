"""`neuron_count` and `neuron_count_top`: s(x), the neurons that took part in the answer (SPEC §4; the paper's §4.2).

The paper keeps the fewest ("neuron consensus") and, as its ablation, the most.
"""

from __future__ import annotations

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.selectors.base import Pool, selector


@selector(keep="low")
def neuron_count(pool: Pool, config: SelectConfig) -> np.ndarray:
    return pool.counts.astype(np.float64)


@selector(keep="high")
def neuron_count_top(pool: Pool, config: SelectConfig) -> np.ndarray:
    return pool.counts.astype(np.float64)
