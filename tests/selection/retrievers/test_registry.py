"""Retrievers and filters against plain loops; what each may show and what it may not."""

from dataclasses import replace

import numpy as np
import pytest

from nopsd.config import CHOICES
from nopsd.selection.retrievers import RETRIEVERS
from tests.selection.pools import AGREES, contexts_of, shown, signals_of


def test_the_configs_choices_are_the_registry():
    assert set(CHOICES["context.retriever"]) == set(RETRIEVERS)
    assert all(name == r.name for name, r in RETRIEVERS.items())


@pytest.mark.parametrize("retriever", sorted(RETRIEVERS))
@pytest.mark.parametrize("name", CHOICES["context.filter"])
def test_every_retriever_obeys_every_filter(make_neurons, alone, tmp_path, retriever, name):
    neurons = replace(make_neurons(12), counts=np.arange(12, dtype=np.float32))
    vectors = np.random.default_rng(3).normal(size=(12, 4))
    signals = signals_of(neurons, agrees=AGREES, **dict.fromkeys(("embedding", "trajectory"), vectors))
    _, contexts = contexts_of(neurons, alone, tmp_path, signals, retriever=retriever, filter=name)
    seen = {place for near in shown(contexts).values() for place in near}
    if name == "majority":
        assert seen <= {(f"q{i:03d}", int(np.argmax(AGREES[i] > 0))) for i in (0, 1, 2, 5, 6, 7, 9)}
    if name == "s_below_median":  # of the counts 0, 1, 2, 4 … 11 (q003 is not scored): 6
        assert {uid for uid, _ in seen} <= {f"q{i:03d}" for i in (0, 1, 2, 4, 5, 6)}
    if retriever == "none":
        assert not seen
    elif name == "none" and retriever != "same_prompt_rollout":
        assert {sample for _, sample in seen} == {0} and len({uid for uid, _ in seen}) > (
            3 if retriever in ("fixed", "bm25") else 7
        )
    else:
        assert seen
