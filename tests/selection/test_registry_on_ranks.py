"""The whole registry: the same files to the byte on 1, 2 and 4 ranks."""

import json
from pathlib import Path

import numpy as np
import pytest

from nopsd.neurons.store import NeuronSets, rank_file, write_neurons
from nopsd.selection.retrievers import RETRIEVERS
from nopsd.selection.selectors import SELECTORS
from nopsd.signals.store import Signals, write_signals

HERE = Path(__file__).parent
COUNT = 43


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_neurons, run_ranks):
    """Every selector and every retriever in one process group for each number of ranks."""
    folder = tmp_path_factory.mktemp("registry")
    base, draw = make_neurons(COUNT), np.random.default_rng(7)
    agreement = draw.integers(0, 6, COUNT).astype(np.float32) / 5  # few values: ties
    neurons = NeuronSets(
        base.uids,
        base.counts,
        base.ids,
        base.scores,
        base.lengths,
        base.truncated,
        base.histogram,
        base.header,
        agreement,
    )
    write_neurons(rank_file(folder, 0), neurons)
    columns = {
        name: draw.integers(0, 7, COUNT).astype(np.float32)
        for name in ("majority_conf", "token_entropy", "self_certainty", "seq_nll", "nait", "belief_shift")
    }
    columns |= {
        name: draw.integers(0, 7, COUNT).astype(np.float32) for name in ("teacher_shift", "representation_shift")
    }
    columns["trajectory"] = draw.integers(-1, 2, (COUNT, 3)).astype(np.float32)
    columns["agrees"] = (draw.random((COUNT, 3)) < 0.4).astype(np.float32)
    columns["embedding"] = draw.integers(-1, 2, (COUNT, 2)).astype(np.float32)  # parallel vectors: ties
    write_signals(folder, Signals(neurons.uids, columns))
    cases = [[s, "none"] for s in sorted(SELECTORS)] + [["neuron_count", r] for r in sorted(RETRIEVERS)]
    run_ranks(HERE / "worker_registry.py", {"folder": str(folder), "out": folder, "cases": cases}, 1, 2, 4)
    return folder


@pytest.mark.engine
@pytest.mark.parametrize("size", [2, 4])
def test_every_selector_and_every_retriever(runs, size):
    """Uneven shards, an empty rank, ties everywhere: a rank that differs would train on other questions."""
    wanted = sorted((runs / "out-1").iterdir())
    assert len(wanted) == len(SELECTORS) + len(RETRIEVERS) - 1  # neuron_count without demonstrations is in both
    for folder in wanted:
        files = sorted(p.name for p in folder.iterdir())
        assert files == ["contexts.json", "scores.jsonl", "selected.json"]
        for name in files:
            other = runs / f"out-{size}" / folder.name / name
            assert other.read_bytes() == (folder / name).read_bytes(), (size, folder.name, name)


@pytest.mark.engine
def test_the_cases_differ_and_have_ties(runs):
    """Equality of empty or constant results would prove nothing."""
    out = runs / "out-1"
    chosen = {s: json.loads((out / f"{s}-none" / "selected.json").read_text())["uids"] for s in SELECTORS}
    assert len({tuple(uids) for uids in chosen.values()}) == len(SELECTORS)
    found = {r: json.loads((out / f"neuron_count-{r}" / "contexts.json").read_text()) for r in RETRIEVERS}
    assert len({json.dumps(f, sort_keys=True) for f in found.values()}) == len(RETRIEVERS)
    tied = [len({n["distance"] for n in near}) < len(near) for near in found["embedding_cos"].values()]
    assert any(tied) and all(found["neuron_jaccard"].values())
    rows = [json.loads(line) for line in (out / "seq_nll-none" / "scores.jsonl").read_text().splitlines()]
    assert [r["uid"] for r in rows] == sorted(r["uid"] for r in rows) and len(rows) == COUNT
    assert {r["uid"] for r in rows if r["selected"]} == set(chosen["seq_nll"])
    assert len({r["score"] for r in rows if r["selected"]}) < len(chosen["seq_nll"])
    assert [r["uid"] for r in rows if r["score"] is None] == ["q003"]  # it has no scored position
