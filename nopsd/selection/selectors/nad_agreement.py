"""`nad_agreement`: mean pairwise Jaccard similarity of the neuron sets of a question's answers; the highest kept
(SPEC §4; NAD, arXiv 2510.26277). It is NaN, and refused, for a question with one answer: it needs
rollout_zs.n of 2 or more."""

from __future__ import annotations

import numpy as np

from nopsd.config import SelectConfig
from nopsd.selection.selectors.base import Pool, selector


@selector(keep="high", needs=("agreement",))
def nad_agreement(pool: Pool, config: SelectConfig) -> np.ndarray:
    return pool.column("agreement")
