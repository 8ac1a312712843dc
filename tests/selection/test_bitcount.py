"""Intersections counted by machine words: a wrong count is another distance, and so another neighbour."""

import numpy as np

from nopsd.selection.jaccard import jaccard_distances


def test_kernel_counts_large_intersections(kernel):
    """Counters must hold all of K: 8,191 and 8,192 need one bit more than each other."""
    for size in (255, 256, 8_191, 8_192):
        ids = np.stack([np.arange(size), np.arange(size) + 1]).astype(np.int32)
        found = jaccard_distances(ids, ids, size + 1)
        assert np.array_equal(found, [[0, 1 - (size - 1) / (size + 1)], [1 - (size - 1) / (size + 1), 0]])
