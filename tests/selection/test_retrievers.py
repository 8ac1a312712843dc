"""Retrievers and filters against plain loops; what each may show and what it may not."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from nopsd.config import CHOICES, ContextConfig, SelectConfig
from nopsd.errors import ConfigError, DataError, UserError
from nopsd.selection.artefacts import read_contexts
from nopsd.selection.filters import eligible
from nopsd.selection.gathering import PoolData
from nopsd.selection.pool import make_pool
from nopsd.selection.retrievers import RETRIEVERS, Neighbors, Retriever
from nopsd.selection.retrievers.embedding_cos import GRID, cosine_distances, on_grid, smallest
from nopsd.selection.select_pool import Sharing, find_contexts, select_pool
from nopsd.signals.store import Signals


def texts_of(neurons):
    return {uid: f"text {uid}" for uid in neurons.uids}


def signals_of(neurons, **columns):
    """In another order than the pool's: rows are found by uid."""
    back = np.arange(len(neurons.uids))[::-1]
    return Signals([neurons.uids[i] for i in back], {n: np.asarray(c, np.float32)[back] for n, c in columns.items()})


def run(neurons, alone, tmp_path, signals=None, select=None, domains=None, **context):
    return select_pool(
        PoolData(neurons, texts_of(neurons), domains, signals),
        SelectConfig(**(select or {"selector": "all"})),
        ContextConfig(**{"m": 3, **context}),
        Sharing(alone),
        tmp_path,
    )


def shown(contexts):
    return {uid: [(n.uid, n.sample) for n in near] for uid, near in contexts.items()}


def test_the_configs_choices_are_the_registry():
    assert set(CHOICES["context.retriever"]) == set(RETRIEVERS)
    assert all(name == r.name for name, r in RETRIEVERS.items())


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
        run(neurons, alone, tmp_path, signals_of(neurons, embedding=embedding), retriever="embedding_cos")
    with pytest.raises(DataError, match="embedding_cos asks for the column embedding, and there are agreement"):
        run(neurons, alone, tmp_path, retriever="embedding_cos")


def test_smallest_keeps_ties_in_order_and_leaves_out_what_is_not_there():
    values = np.array([2.0, 1.0, np.inf, 1.0, 0.5, 1.0])
    assert smallest(values, 3).tolist() == [4, 1, 3] and smallest(values, 9).tolist() == [4, 1, 3, 5, 0]
    assert smallest(values, 0).tolist() == [] and smallest(np.full(4, np.inf), 2).tolist() == []


AGREES = np.zeros((12, 4), np.float32)
AGREES[0, 1:] = AGREES[1, 0] = AGREES[2, 3] = AGREES[5] = AGREES[6, 2] = AGREES[7, 1] = AGREES[9, 0] = 1
AGREES[8, 3] = np.nan  # no such response


def test_same_prompt_rollout_shows_the_first_agreeing_response_of_the_question_itself(make_neurons, alone, tmp_path):
    neurons = make_neurons(12)
    signals = signals_of(neurons, agrees=AGREES)
    selection, contexts = run(neurons, alone, tmp_path, signals, retriever="same_prompt_rollout")
    found = shown(contexts)
    assert found["q000"] == [("q000", 1)] and found["q002"] == [("q002", 3)] and found["q005"] == [("q005", 0)]
    assert found["q004"] == found["q008"] == []
    agreeing = sum(bool(near) for near in found.values())
    assert agreeing == 7 and len(found) == 11  # q003 has no scored position
    assert selection.stats["short_contexts"] == selection.stats["empty_contexts"] == 4
    _, contexts = run(neurons, alone, tmp_path, signals, retriever="same_prompt_rollout", m=0)
    assert not any(contexts.values())


@pytest.mark.parametrize("retriever", sorted(RETRIEVERS))
@pytest.mark.parametrize("name", CHOICES["context.filter"])
def test_every_retriever_obeys_every_filter(make_neurons, alone, tmp_path, retriever, name):
    neurons = replace(make_neurons(12), counts=np.arange(12, dtype=np.float32))
    signals = signals_of(neurons, agrees=AGREES, embedding=np.random.default_rng(3).normal(size=(12, 4)))
    _, contexts = run(neurons, alone, tmp_path, signals, retriever=retriever, filter=name)
    seen = {place for near in shown(contexts).values() for place in near}
    if name == "majority":
        assert seen <= {(f"q{i:03d}", int(np.argmax(AGREES[i] > 0))) for i in (0, 1, 2, 5, 6, 7, 9)}
    if name == "s_below_median":  # of the counts 0, 1, 2, 4 … 11 (q003 is not scored): 6
        assert {uid for uid, _ in seen} <= {f"q{i:03d}" for i in (0, 1, 2, 4, 5, 6)}
    if retriever == "none":
        assert not seen
    elif name == "none" and retriever != "same_prompt_rollout":
        assert {sample for _, sample in seen} == {0} and len({uid for uid, _ in seen}) > 7
    else:
        assert seen


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
        run(neurons, alone, tmp_path, signals, filter="majority", m=7)
    run(neurons, alone, tmp_path, signals, filter="majority", m=6)
    with pytest.raises(DataError, match="context.filter=majority: there is no column agrees"):
        run(neurons, alone, tmp_path, filter="majority")
    domains = {uid: "small" if i < 3 else "big" for i, uid in enumerate(neurons.uids)}
    with pytest.raises(ConfigError, match="context.m=3 demonstrations from a pool of 3 questions of domain small"):
        run(neurons, alone, tmp_path, domains=domains)


def test_signals_of_other_questions_are_refused(make_neurons, alone, tmp_path):
    neurons = make_neurons(12)
    signals = Signals(neurons.uids[1:], {"agrees": AGREES[1:]})
    with pytest.raises(DataError, match="question q000 has no signals: .*--redo signals"):
        run(neurons, alone, tmp_path, signals)


def test_contexts_for_any_questions_are_those_of_the_selection(make_neurons, alone, tmp_path):
    """belief_shift needs demonstrations before there is a selection; they must be the ones that training shows."""
    neurons = make_neurons(30)
    _, contexts = run(neurons, alone, tmp_path, select={"fraction": 0.3})
    asked = sorted(contexts)[:4]
    found = find_contexts(asked, PoolData(neurons, texts_of(neurons)), ContextConfig(m=3), Sharing(alone))
    assert found == {uid: contexts[uid] for uid in asked}
    with pytest.raises(ConfigError, match="context.pool=selected.*set context.pool=all"):
        find_contexts(asked, PoolData(neurons, texts_of(neurons)), ContextConfig(m=3, pool="selected"), Sharing(alone))


def test_contexts_of_before_samples_were_named_are_still_read(make_neurons, alone, tmp_path):
    _, contexts = run(make_neurons(12), alone, tmp_path)
    stored = json.loads((tmp_path / "contexts.json").read_text())
    assert {frozenset(n) for near in stored.values() for n in near} == {frozenset({"uid", "sample", "distance"})}
    for near in stored.values():
        for n in near:
            del n["sample"]
    (tmp_path / "contexts.json").write_text(json.dumps(stored))
    assert read_contexts(tmp_path) == contexts


@pytest.mark.parametrize(
    ("find", "words"),
    [
        (lambda r: 3, "returned a int: return Neighbors"),
        (lambda r: Neighbors(np.zeros((2, 1), int), np.zeros((2, 1))), r"must return \[11, m\] arrays"),
        (lambda r: Neighbors(np.full((11, 1), 12), np.zeros((11, 1))), "no questions"),
        (lambda r: Neighbors(r.queries[:, None], np.zeros((11, 1))), "shows a question its own response"),
    ],
)
def test_what_a_users_retriever_returns_is_checked(make_neurons, alone, tmp_path, monkeypatch, find, words):
    monkeypatch.setitem(RETRIEVERS, "own", Retriever("own", find))
    with pytest.raises(UserError, match=f"context.retriever=own.*{words}"):
        run(make_neurons(12), alone, tmp_path, retriever="own")
