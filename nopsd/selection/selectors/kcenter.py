"""`kcenter`: questions that leave none of the pool far away (k-center greedy, arXiv 1708.00489).

    start at the question nearest to all; then argmax_{x not in S} w(x) min_{j in S} d(x, j) until the budget

Without weights the largest distance of any question to S is at most twice the best possible. Weighted by
representation_shift in select.space=representation it is SHIFT (arXiv 2605.28631): it starts at the largest weight.
"""

from __future__ import annotations

import numpy as np

from nopsd.config import SelectConfig
from nopsd.errors import DataError
from nopsd.selection.selectors import columns
from nopsd.selection.selectors.base import Pool, selector, without_length
from nopsd.selection.selectors.neuron_density import neuron_density
from nopsd.selection.selectors.spaces import Space, in_order, space_of

QUALITIES = {
    s.name: s
    for s in (
        columns.neuron_count,
        columns.neuron_count_top,
        neuron_density,
        columns.nad_agreement,
        columns.majority_conf,
        columns.token_entropy,
        columns.self_certainty,
        columns.seq_nll,
        columns.length,
        columns.learnability,
        columns.representation_shift,
    )
}


@selector(keep="low", length_control=False, neurons=False)
def kcenter(pool: Pool, config: SelectConfig) -> np.ndarray:
    """Farthest first in select.space. `length_control` acts on the weights of select.quality."""
    space = space_of(pool, config)
    if config.quality is None:
        weights, start = np.ones(len(pool.uids)), space.centre
    else:
        weights = quality_weights(pool, config, config.quality)
        start = int(np.argmax(weights))
    return in_order(farthest_first(space, weights, start, pool.budget), len(pool.uids))


def farthest_first(space: Space, weights: np.ndarray, start: int, budget: int) -> list[int]:
    """Places in the order of picking; of equals the first.

    Args:
        space: How far apart N questions are.
        weights: At least 0, [N].
        start: The first pick.
        budget: How many to pick, 1 to N.
    """
    picked = [start]
    nearest = space.apart(start)
    taken = np.zeros(len(weights), dtype=bool)
    while len(picked) < budget:
        taken[picked[-1]] = True
        picked.append(int(np.argmax(np.where(taken, -1.0, weights * nearest))))
        nearest = np.minimum(nearest, space.apart(picked[-1]))
    return picked


def quality_weights(pool: Pool, config: SelectConfig, quality: str) -> np.ndarray:
    """A weight a question, the larger the better it is by the selector `quality`.

    log(1 + score) of representation_shift, as SHIFT has it; else (chosen) the share of questions that are no better,
    from 1/N to 1, which any scale of scores has. DataError if a score is not a number.
    """
    chosen = QUALITIES[quality]
    scores = np.asarray(chosen.score(pool, config), dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise DataError(
            f"select.quality={quality} has no score for question {pool.uids[bad[0]]}: take another quality, or remove "
            "the question"
        )
    if config.length_control == "residual" and chosen.length_control:
        scores = without_length(scores, pool.lengths)
    elif quality == "representation_shift":
        return np.log1p(scores)
    better = scores if chosen.keep == "high" else -scores
    result: np.ndarray = np.searchsorted(np.sort(better), better, side="right") / len(better)
    return result
