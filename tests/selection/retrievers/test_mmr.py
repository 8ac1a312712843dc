"""`mmr` and `trajectory_cos`: nearest, and unlike each other, by hand and against plain loops."""

import numpy as np
import pytest

from nopsd.selection.cosine import cosine_distances, on_grid
from nopsd.selection.retrievers.embedding_cos import most_relevant
from tests.selection.pools import contexts_of, shown, signals_of


def unit(*degrees):
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def picks(degrees, m, weight, barred=()):
    grid = on_grid(unit(*degrees), [str(d) for d in degrees])
    distances = cosine_distances(grid[:1], grid)[0]
    distances[[0, *barred]] = np.inf
    return most_relevant(grid, distances, m, weight).tolist()


def test_by_hand():
    """Query at 0: 10 and 12 degrees are near and alike; −40 is farther and unlike both."""
    degrees = (0, 10, 12, -40)
    assert picks(degrees, 3, 1.0) == [1, 2, 3]
    assert picks(degrees, 3, 0.5) == [1, 3, 2]
    assert picks(degrees, 5, 0.5, barred=[1]) == [2, 3]


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.8])
def test_as_plain_loops(weight):
    vectors = np.random.default_rng(1).normal(size=(20, 4))
    grid = on_grid(vectors, [str(i) for i in range(20)])
    cosine = 1 - cosine_distances(grid, grid)
    distances = 1 - cosine[0]
    distances[:3] = np.inf
    picked = []
    for _ in range(6):
        rest = [j for j in range(3, 20) if j not in picked]
        picked.append(
            max(
                rest,
                key=lambda j: (
                    weight * cosine[0, j] - (1 - weight) * max((cosine[j, i] for i in picked), default=0),
                    -j,
                ),
            )
        )
    assert most_relevant(grid, distances, 6, weight).tolist() == picked


def test_the_retriever_goes_by_embeddings_and_its_key(make_neurons, alone, tmp_path):
    neurons = make_neurons(12)
    embedding = np.random.default_rng(5).normal(size=(12, 3))
    signals = signals_of(neurons, embedding=embedding, trajectory=embedding[::-1])
    contexts = {
        name: shown(contexts_of(neurons, alone, tmp_path, signals, retriever=retriever, **more)[1])
        for name, retriever, more in (
            ("near", "embedding_cos", {}),
            ("same", "mmr", {"mmr_lambda": 1.0}),
            ("mixed", "mmr", {"mmr_lambda": 0.2}),
            ("way", "trajectory_cos", {}),
        )
    }
    assert contexts["near"] == contexts["same"] != contexts["mixed"]
    assert all(a[0] == b[0] for a, b in zip(contexts["near"].values(), contexts["mixed"].values()))
    cosine = cosine_distances(*[on_grid(embedding[::-1], neurons.uids)] * 2)
    np.fill_diagonal(cosine, np.inf)
    wanted = [neurons.uids[i] for i in np.argsort(cosine[0], kind="stable")[:3]]
    assert [uid for uid, _ in contexts["way"]["q000"]] == wanted
