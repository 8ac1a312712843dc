"""A small scored pool of two domains, whose neuron sets lie in two groups."""

import numpy as np
import pytest

from nopsd.reporting.inspect_view import InspectView, Neighbourhood, Told
from nopsd.reporting.overlap import nearest_of, overlap

WIDTHS = (40, 20, 60)


def neuron_sets(questions=30, members=12, seed=0):
    """ids [N, K]: the first half draws from the lower neurons, the second from the upper ones; sizes differ."""
    rng = np.random.default_rng(seed)
    ids = np.full((questions, members), -1, np.int32)
    for row in range(questions):
        low = 0 if row < questions // 2 else 60
        size = members - row % 3
        ids[row, :size] = rng.choice(np.arange(low, low + 60), size, replace=False)
    return ids


def histogram(ids, widths=WIDTHS):
    ends = np.cumsum(widths)
    return np.array(
        [
            [sum(ends[layer] - widths[layer] <= i < ends[layer] for i in row if i >= 0) for layer in range(len(widths))]
            for row in ids.tolist()
        ]
    )


@pytest.fixture(scope="session")
def make_view():
    def make(**changes):
        ids = changes.pop("ids", neuron_sets())
        n, rng = len(ids), np.random.default_rng(3)
        counts = rng.integers(100, 200, n).astype(float)
        row = min(4, n - 1)
        threshold = float(np.sort(counts)[min(5, n - 1)])
        parts = {
            "title": "runs/x",
            "told": [Told(f"q{i:02d}", f"What is {i}?", f"It is <answer>{i}</answer>") for i in range(n)],
            "domains": ["biology" if i < n // 2 else "physics" for i in range(n)],
            "counts": counts,
            "lengths": rng.integers(10, 90, n),
            "members": histogram(ids),
            "widths": WIDTHS,
            "truncated": np.arange(n) == 4,
            "selected": counts <= threshold,
            "threshold": threshold,
            "signals": {"majority_conf": rng.random(n), "token_entropy": rng.random(n)},
            "overlap": overlap(ids, histogram(ids), WIDTHS),
            "neighbourhoods": [Neighbourhood(row, "asked for", nearest_of([row], ids, WIDTHS, 3)[0])],
        }
        return InspectView(**(parts | changes))

    return make


@pytest.fixture(scope="session")
def sets():
    ids = neuron_sets()
    return ids, histogram(ids), WIDTHS
