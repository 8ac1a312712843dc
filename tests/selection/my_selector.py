"""Lean and sure: answers with few neurons for their length, of which the model is sure."""

import numpy as np

from nopsd.selection.selectors import selector


@selector(keep="low", needs=("token_entropy",))
def lean_and_sure(pool, config):
    """The sum of two ranks among the domain's questions; the lowest are kept."""
    neurons_per_token = pool.counts / pool.lengths
    return ranks(neurons_per_token) + ranks(pool.column("token_entropy"))


def ranks(values):
    """0 for the least; equal values have equal ranks."""
    return np.unique(values, return_inverse=True)[1]
