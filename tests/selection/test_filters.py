"""Filters of the pool that demonstrations come from: what each leaves, and a pool that is then too small."""

import numpy as np
import pytest

from nopsd.errors import ConfigError, DataError
from nopsd.selection.filters import eligible
from nopsd.selection.pool import make_pool
from tests.selection.pools import AGREES, contexts_of, signals_of


def test_the_median_is_the_domains_own():
    pool = make_pool(
        list("abcdef"),
        np.array([1, 2, 3, 100, 200, 300]),
        np.array([5, 5, 5, 5, 5, 5]),
        np.zeros(6, bool),
        ["x"] * 3 + ["y"] * 3,
    )
    assert eligible("s_below_median", pool).allowed.tolist() == [True, True, False, True, True, False]


def test_a_pool_too_small_after_filtering_is_refused(make_neurons, alone, tmp_path):
    neurons = make_neurons(12)
    signals = signals_of(neurons, agrees=AGREES)
    with pytest.raises(ConfigError, match="context.m=7 demonstrations from a pool of 7.*filter=majority.*m to 6"):
        contexts_of(neurons, alone, tmp_path, signals, filter="majority", m=7)
    contexts_of(neurons, alone, tmp_path, signals, filter="majority", m=6)
    with pytest.raises(DataError, match="context.filter=majority: there is no column agrees"):
        contexts_of(neurons, alone, tmp_path, filter="majority")
    domains = {uid: "small" if i < 3 else "big" for i, uid in enumerate(neurons.uids)}
    with pytest.raises(ConfigError, match="context.m=3 demonstrations from a pool of 3 questions of domain small"):
        contexts_of(neurons, alone, tmp_path, domains=domains)
