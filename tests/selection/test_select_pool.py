"""Contexts: the nearest allowed pool questions, and what is refused."""

import numpy as np
import pytest

from nopsd.config import ContextConfig
from nopsd.errors import ConfigError, DataError
from nopsd.selection.gathering import PoolData
from nopsd.selection.select_pool import Sharing, find_contexts
from nopsd.signals.store import Signals
from tests.selection.pools import AGREES, contexts_of, texts_of


def twin_texts(neurons):
    """q005's and q006's texts differ only in case and spacing."""
    return {u: "Same  text?" if u == "q005" else "same TEXT? " if u == "q006" else f"text {u}" for u in neurons.uids}


def run(neurons, alone, tmp_path, texts=None, **settings):
    return contexts_of(neurons, alone, tmp_path, texts=texts or twin_texts(neurons), **{"m": 4, **settings})


def sets_of(neurons):
    return {u: set(row.tolist()) - {-1} for u, row in zip(neurons.uids, neurons.ids)}


def expected(neurons, query, pool, m, same_text=()):
    sets = sets_of(neurons)

    def distance(other):
        union = sets[query] | sets[other]
        return 1.0 - len(sets[query] & sets[other]) / len(union) if union else 1.0

    allowed = [u for u in pool if u != query and {u, query} != set(same_text)]
    return sorted((distance(u), u) for u in allowed)[:m]


def test_contexts_are_the_nearest_with_ties_by_uid(make_neurons, alone, tmp_path):
    neurons = make_neurons(30)
    chosen, contexts = run(neurons, alone, tmp_path)
    assert set(contexts) == set(chosen.uids) == set(neurons.uids) - {"q003"}  # q003 has no scored position
    tied = False
    for uid, found in contexts.items():
        wanted = expected(neurons, uid, neurons.uids, 4, ("q005", "q006"))
        assert [(n.distance, n.uid) for n in found] == wanted
        assert uid not in [n.uid for n in found]
        tied |= len({n.distance for n in found}) < 4
    assert tied  # the example has ties
    assert contexts["q000"][0].uid == "q015" and contexts["q000"][0].distance == 0


def test_equal_texts_are_kept_when_so_configured(make_neurons, alone, tmp_path):
    neurons = make_neurons(30)
    neurons.ids[6] = neurons.ids[5]
    _, contexts = run(neurons, alone, tmp_path)
    assert "q006" not in [n.uid for n in contexts["q005"]]
    _, contexts = run(neurons, alone, tmp_path, dedup_text=False)
    assert "q006" in [n.uid for n in contexts["q005"]]


def test_pool_selected_takes_demonstrations_from_the_selection(make_neurons, alone, tmp_path):
    neurons = make_neurons(30)
    chosen, contexts = run(neurons, alone, tmp_path, select={"fraction": 0.3}, pool="selected")
    for uid, found in contexts.items():
        assert [(n.distance, n.uid) for n in found] == expected(neurons, uid, chosen.uids, 4, ("q005", "q006"))
    _, contexts = run(neurons, alone, tmp_path, select={"fraction": 0.3})
    assert not {n.uid for found in contexts.values() for n in found} <= set(chosen.uids)


def test_demonstrations_come_from_the_questions_own_domain(make_neurons, alone, tmp_path):
    neurons = make_neurons(30)
    domains = {u: "ab"[i % 2] for i, u in enumerate(neurons.uids)}
    for retriever in ("neuron_jaccard", "random"):
        _, contexts = run(neurons, alone, tmp_path, domains=domains, retriever=retriever)
        assert all(domains[n.uid] == domains[uid] for uid, found in contexts.items() for n in found)


def test_random_is_seeded_and_has_no_distances(make_neurons, alone, tmp_path):
    neurons = make_neurons(30)
    _, first = run(neurons, alone, tmp_path, retriever="random", seed=1)
    assert run(neurons, alone, tmp_path, retriever="random", seed=1)[1] == first
    assert run(neurons, alone, tmp_path, retriever="random", seed=2)[1] != first
    for uid, found in first.items():
        assert len({n.uid for n in found}) == 4 and uid not in {n.uid for n in found}
        assert all(n.distance is None for n in found)
    assert {"q005", "q006"} not in [{u, n.uid} for u, found in first.items() for n in found]


def test_none_gives_no_demonstrations(make_neurons, alone, tmp_path):
    _, contexts = run(make_neurons(5), alone, tmp_path, retriever="none", m=10)
    assert set(map(tuple, contexts.values())) == {()}


def test_a_pool_smaller_than_the_demonstrations_is_refused(make_neurons, alone, tmp_path):
    with pytest.raises(ConfigError, match="context.m=10 demonstrations from a pool of 8 questions.*set context.m to 7"):
        run(make_neurons(8), alone, tmp_path, m=10)
    with pytest.raises(ConfigError, match="context.pool=selected"):
        run(make_neurons(30), alone, tmp_path, select={"fraction": 0.1, "ties": "exact"}, m=3, pool="selected")
    assert not list(tmp_path.iterdir())


def test_short_contexts_are_counted(make_neurons, alone, tmp_path):
    """Equal texts can leave fewer demonstrations than asked for; that must be seen."""
    neurons = make_neurons(6)
    texts = dict.fromkeys(neurons.uids, "one") | {"q000": "another"}
    chosen, contexts = run(neurons, alone, tmp_path, texts=texts, m=2)
    assert [n.uid for n in contexts["q001"]] == ["q000"]
    assert chosen.stats["short_contexts"] == 4  # of the five scored questions, all but q000


def test_questions_and_neuron_sets_must_match(make_neurons, alone, tmp_path):
    neurons = make_neurons(8)
    texts = twin_texts(neurons)
    with pytest.raises(DataError, match="q999 has no neuron set"):
        run(neurons, alone, tmp_path, texts={**texts, "q999": "x"})
    del texts["q002"]
    with pytest.raises(DataError, match="q002 has a neuron set but is not in the pool"):
        run(neurons, alone, tmp_path, texts=texts)
    assert np.all(neurons.ids >= -1)


def test_signals_of_other_questions_are_refused(make_neurons, alone, tmp_path):
    neurons = make_neurons(12)
    signals = Signals(neurons.uids[1:], {"agrees": AGREES[1:]})
    with pytest.raises(DataError, match="question q000 has no signals: .*--redo signals"):
        contexts_of(neurons, alone, tmp_path, signals)


def test_contexts_for_any_questions_are_those_of_the_selection(make_neurons, alone, tmp_path):
    """belief_shift needs demonstrations before there is a selection; they must be the ones that training shows."""
    neurons = make_neurons(30)
    _, contexts = contexts_of(neurons, alone, tmp_path, select={"fraction": 0.3})
    asked = sorted(contexts)[:4]
    found = find_contexts(asked, PoolData(neurons, texts_of(neurons)), ContextConfig(m=3), Sharing(alone))
    assert found == {uid: contexts[uid] for uid in asked}
    with pytest.raises(ConfigError, match="context.pool=selected.*set context.pool=all"):
        find_contexts(asked, PoolData(neurons, texts_of(neurons)), ContextConfig(m=3, pool="selected"), Sharing(alone))
