"""Random neuron sets as the neurons stage gives them, with ties, equal texts and an empty set."""

import numpy as np
import pytest

from nopsd.neurons.store import NeuronSets
from nopsd.selection import jaccard


@pytest.fixture(scope="session")
def make_neurons():
    def make(count, seed=0, k=9):
        draw = np.random.default_rng(seed)
        ids = np.full((count, k), -1, np.int32)
        for row in ids:
            size = draw.integers(1, k + 1)
            row[:size] = draw.choice(40, size, replace=False)
        ids[count // 2] = ids[0]
        lengths = draw.integers(1, 60, count).astype(np.int32)
        lengths[3], ids[3] = 0, -1
        return NeuronSets(
            [f"q{i:03d}" for i in range(count)],
            draw.integers(5, 15, count).astype(np.float32),
            ids,
            np.zeros((count, k), np.float16),
            lengths,
            draw.random(count) < 0.2,
            np.zeros((count, 4), np.int32),
            {"widths": [10] * 4},
        )

    return make


@pytest.fixture
def kernel(monkeypatch):
    """Distances are the kernel's, also of pools so small that scipy's product would be taken."""
    monkeypatch.setattr(jaccard, "SMALL", 0)
