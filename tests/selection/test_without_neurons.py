"""Selection of methods that go by no neurons: from the rollouts alone, and the same as with the neurons artefact."""

import json

import numpy as np
import pytest
import torch

from nopsd.config import ContextConfig, SelectConfig, load_config
from nopsd.engine.distributed import Ranks
from nopsd.errors import DataError
from nopsd.neurons.store import NeuronSets
from nopsd.rollout.types import Rollout
from nopsd.selection.gathering import PoolData
from nopsd.selection.names import needs_neurons
from nopsd.selection.select_pool import Sharing, select_pool
from nopsd.selection.without_neurons import without_neurons

ALONE = Ranks(0, 1, torch.device("cpu"))
LENGTHS = {"qa": (3, 4), "qb": (1, 1), "qc": (9, 2), "qd": (5, 5), "qe": (0, 0)}


def rollouts():
    return [
        Rollout(uid, s, [1], [7] * n, "", "length" if n == 9 else "stop", 0)
        for uid, lengths in LENGTHS.items()
        for s, n in enumerate(lengths)
    ]


def scored():
    """What the neurons stage would have left of the same rollouts."""
    uids = sorted(LENGTHS)
    ids = np.array([[i, i + 1] for i in range(len(uids))], dtype=np.int32)
    lengths = np.array([round(sum(LENGTHS[uid]) / 2) for uid in uids], dtype=np.int32)
    truncated = np.array([9 in LENGTHS[uid] for uid in uids])
    return NeuronSets(
        uids,
        np.arange(len(uids), dtype=np.float32),
        ids,
        np.ones_like(ids, dtype=np.float16),
        lengths,
        truncated,
        np.zeros((len(uids), 1), np.int32),
        {"widths": [16]},
    )


@pytest.mark.parametrize("selector", ["all", "random", "length"])
@pytest.mark.parametrize("retriever", ["none", "random"])
def test_the_same_questions_and_demonstrations_as_with_neurons(selector, retriever, tmp_path):
    """Leaving the stage out saves its cost and must not change the baseline."""
    texts = {uid: f"what is {uid}" for uid in LENGTHS}
    select, context = SelectConfig(selector, 0.5, exclude_truncated=True), ContextConfig(retriever, m=2)
    found = []
    for name, neurons in (("with", scored()), ("without", without_neurons(rollouts(), ALONE))):
        selection, contexts = select_pool(PoolData(neurons, texts), select, context, Sharing(ALONE), tmp_path / name)
        found.append((selection.uids, selection.threshold, contexts))
        stats = json.loads((tmp_path / name / "selected.json").read_text())["stats"]
        assert "qe" not in selection.uids and "qc" not in selection.uids, "nothing to learn from; cut"
    assert found[0] == found[1]
    assert stats["count_mean"] is None and stats["mean_pairwise_jaccard"] is None and stats["truncated"] == 1


def test_ranks_share_the_questions():
    parts = [without_neurons(rollouts(), Ranks(rank, 2, torch.device("cpu"))) for rank in range(2)]
    assert [part.uids for part in parts] == [["qa", "qc", "qe"], ["qb", "qd"]]


def test_what_goes_by_counts_is_refused_without_them(tmp_path):
    """A count that nobody made must not be taken for one."""
    texts = {uid: uid for uid in LENGTHS}
    with pytest.raises(DataError, match="no score"):
        select_pool(
            PoolData(without_neurons(rollouts(), ALONE), texts),
            SelectConfig("neuron_count", 0.5),
            ContextConfig("none"),
            Sharing(ALONE),
            tmp_path,
        )


OWN = """
from nopsd.selection.retrievers import retriever
from nopsd.selection.selectors import selector


@selector(keep="low")
def by_counts(pool, config):
    return pool.counts


@selector(keep="low", neurons=False)
def by_length(pool, config):
    return pool.lengths
"""


def test_who_needs_neurons(tmp_path, monkeypatch):
    """One that reads sets and gets none would fail after the rollouts; a user's own names it itself."""
    (tmp_path / "own_choice_of_b.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))

    def needed(*settings):
        return needs_neurons(load_config("lab", list(settings)))

    assert needed() and needed("select.selector=random") and needed("context.retriever=random")
    assert not needed("select.selector=random", "context.retriever=random")
    assert needed("select.selector=random", "context.retriever=random", "context.filter=s_below_median")
    for name in ("neuron_count_top", "nad_agreement", "dual_neufs"):
        assert needed(f"select.selector={name}", "context.retriever=none", "zero_shot.n=2")
    assert needed("select.selector=own_choice_of_b:by_counts", "context.retriever=none")
    assert not needed("select.selector=own_choice_of_b:by_length", "context.retriever=none")
