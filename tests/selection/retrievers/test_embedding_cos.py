"""Nearest by the cosine of embeddings, against plain loops, with the same bits whatever the blocks."""

from fractions import Fraction

import numpy as np
import pytest

from nopsd.config import ContextConfig, SelectConfig
from nopsd.errors import DataError
from nopsd.selection.cosine import GRID, cosine_distances, on_grid
from nopsd.selection.gathering import PoolData
from nopsd.selection.retrievers.embedding_cos import smallest
from nopsd.selection.select_pool import Sharing, select_pool
from tests.selection.pools import contexts_of, signals_of, texts_of


def exact_distance(a, b):
    """1 − cos of grid vectors, by Python's whole numbers and one division."""
    dot, aa, bb = (sum(int(x) * int(y) for x, y in zip(*pair)) for pair in ((a, b), (a, a), (b, b)))
    return 1 - float(Fraction(dot)) / float(np.sqrt(float(aa * bb))) if aa and bb else 1.0


@pytest.mark.parametrize("blocks", [1, 512])
def test_embedding_cos_is_the_nearest_by_cosine_with_ties_by_uid(make_neurons, alone, tmp_path, blocks, monkeypatch):
    draw = np.random.default_rng(0)
    neurons = make_neurons(30)
    embedding = draw.normal(size=(30, 12)).astype(np.float32)
    embedding[7] = 4 * embedding[9]  # the same direction
    embedding[20] = embedding[9]
    embedding[4] = 0  # a question without a token
    monkeypatch.setattr("nopsd.selection.retrievers.embedding_cos.TEMPORARIES", 6 * 700 if blocks == 1 else 6)
    _, contexts = select_pool(
        PoolData(neurons, texts_of(neurons), signals=signals_of(neurons, embedding=embedding)),
        SelectConfig("all"),
        ContextConfig("embedding_cos", 5),
        Sharing(alone, block_mib=blocks),
        tmp_path,
    )
    unit = embedding / np.maximum(np.linalg.norm(embedding.astype(np.float64), axis=1), 1e-30)[:, None]
    for uid, near in contexts.items():
        own = neurons.uids.index(uid)
        plain = {u: 1 - sum(unit[own] * unit[i]) for i, u in enumerate(neurons.uids) if u != uid}
        assert [n.distance for n in near] == pytest.approx(sorted(plain.values())[:5], abs=1e-6)
        for n in near:
            assert n.distance == pytest.approx(plain[n.uid], abs=1e-6)
    assert [n.uid for n in contexts["q007"]][:2] == ["q009", "q020"]  # equal to the bit, so by uid
    assert contexts["q007"][0].distance == contexts["q007"][1].distance
    assert [(n.uid, n.distance) for n in contexts["q004"]] == [(f"q{i:03d}", 1.0) for i in (0, 1, 2, 3, 5)]


def test_cosines_on_the_grid_are_exact_whatever_the_blocks():
    """Else two ranks with other blocks could differ in the last bit, and then in who is a neighbor."""
    draw = np.random.default_rng(1)
    grid = on_grid(draw.normal(size=(40, 300)).astype(np.float32), [str(i) for i in range(40)])
    assert np.abs(grid).max() <= GRID and np.array_equal(grid, np.rint(grid))
    whole = cosine_distances(grid, grid)
    for i, j in ((0, 0), (3, 17), (39, 2)):
        assert (grid @ grid.T)[i, j] == sum(int(a) * int(b) for a, b in zip(grid[i], grid[j]))
        assert whole[i, j] == pytest.approx(exact_distance(grid[i], grid[j]), abs=1e-15)
        assert np.array_equal(cosine_distances(grid[i : i + 1], grid[: j + 1])[0, j], whole[i, j])
    assert (np.diag(whole) == 0).all()


def test_embedding_cos_refuses_an_embedding_that_is_no_number(make_neurons, alone, tmp_path):
    neurons = make_neurons(12)
    embedding = np.ones((12, 3), np.float32)
    embedding[5, 1] = np.nan
    with pytest.raises(DataError, match="q005 has an embedding that is not finite"):
        contexts_of(neurons, alone, tmp_path, signals_of(neurons, embedding=embedding), retriever="embedding_cos")
    with pytest.raises(DataError, match="embedding_cos asks for the column embedding, and there are agreement"):
        contexts_of(neurons, alone, tmp_path, retriever="embedding_cos")


def test_smallest_keeps_ties_in_order_and_leaves_out_what_is_not_there():
    values = np.array([2.0, 1.0, np.inf, 1.0, 0.5, 1.0])
    assert smallest(values, 3).tolist() == [4, 1, 3] and smallest(values, 9).tolist() == [4, 1, 3, 5, 0]
    assert smallest(values, 0).tolist() == [] and smallest(np.full(4, np.inf), 2).tolist() == []
