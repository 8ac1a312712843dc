"""A small scoring, and whether two gave the same."""

import numpy as np

from nopsd.config import NeuronConfig

CONFIG = NeuronConfig(per_layer=12, k=20, chunk=5, max_batch_tokens=40)


def assert_equal(a, b):
    assert (a.uids, a.header) == (b.uids, b.header)
    for name in ("counts", "ids", "scores", "lengths", "truncated", "histogram"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert np.array_equal(a.agreement, b.agreement, equal_nan=True)
