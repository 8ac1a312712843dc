"""The same s, S and C, to the bit, on 1, 2 and 4 ranks, by all exchanges; and their bytes."""

import json
from pathlib import Path

import numpy as np
import pytest

from nopsd.neurons.store import rank_file, write_neurons
from nopsd.selection import exchange as module
from nopsd.selection.exchange import Directory, plan_exchange

HERE = Path(__file__).parent
COUNT, K, M = 41, 9, 4


@pytest.fixture(scope="module")
def job(tmp_path_factory, make_neurons, run_ranks):
    folder = tmp_path_factory.mktemp("exchange")
    write_neurons(rank_file(folder, 0), make_neurons(COUNT))
    described = {"neurons": str(folder), "out": str(folder / "out"), "bytes": str(folder / "bytes")}
    run_ranks(HERE / "worker_exchange.py", described, 1, 2, 4)
    return {name: Path(path) for name, path in described.items()}


@pytest.mark.engine
def test_uneven_shards_an_empty_rank_and_ties(job):
    """A run on another number of ranks, or with other memory, would train on other questions."""
    reference = job["out"] / "queries_only-sorting-1"
    files = sorted(p.relative_to(reference) for p in reference.rglob("*.json"))
    assert len(files) >= 3 * 3 * 2
    folders = [path for path in job["out"].iterdir() if path.is_dir()]
    for other in folders:
        for file in files:
            assert (other / file).read_bytes() == (reference / file).read_bytes(), (other.name, file)
    assert len(folders) == 3 * 3 * 2  # exchanges, numbers of ranks, ways to search
    exact = json.loads((reference / "exact-paper" / "selected.json").read_text())
    included = json.loads((reference / "paper-paper" / "selected.json").read_text())
    assert len(exact["uids"]) == 10 < len(included["uids"])  # there are ties at the threshold


@pytest.mark.engine
@pytest.mark.parametrize("size", [2, 4])
def test_bytes_sent_are_the_formula_s(job, size):
    """The paper plan (tools/plan_selection.py) and `auto` would count other bytes than are sent."""
    held = {2: [1, 40], 4: [1, 0, 20, 20]}[size]  # worker_exchange.share
    for rank in range(size):
        found = json.loads((job["bytes"] / f"{size}-{rank}.json").read_text())
        for name, one in found.items():
            queries = int(name.split()[1])
            asked = max_asked(size, queries)
            listing = 16 + 8 * max(held)
            queries_only = 4 * K * asked + 8 * M * queries
            gather_all = 4 * K * max(held) + 8 * M * -(-queries // size)
            assert (one["queries_only"], one["gather_all"]) == (queries_only, gather_all)
            assert one["counted"] == one["handed"] == listing + one[one["kind"]], name
        assert found["auto 11"]["kind"] == "queries_only" and found["auto 41"]["kind"] == "gather_all"


def max_asked(size, queries):
    """The most queries (every fourth question, or all) that one rank holds."""
    step = {11: 4, 41: 1}[queries]
    busy = {2: [1], 4: [2, 3]}[size]
    return max(sum(busy[i % len(busy)] == rank for i in range(1, COUNT) if i % step == 0) for rank in busy)


def directory(counts, width):
    edges = np.cumsum([0, *counts])
    numbers = [np.arange(a, b) for a, b in zip(edges, edges[1:])]
    return Directory(numbers, [np.full(len(n), width) for n in numbers], width)


def test_evenly_shared_bytes_in_all():
    """4 K |S| + 8 m R |S| in all for queries-only, 4 K N for gather-all (and 8 m |S| of results)."""
    ranks, each, width, m = 8, 50, 5_000, 10
    whole = directory([each] * ranks, width)
    queries = np.arange(0, ranks * each, 5)
    plan = plan_exchange("auto", whole, queries, m)
    assert ranks * plan.queries_only == 4 * width * len(queries) + 8 * m * ranks * len(queries)
    assert ranks * plan.gather_all == 4 * width * ranks * each + 8 * m * len(queries)
    assert plan.kind == "queries_only"


def test_auto_takes_the_smaller_within_the_memory_bound(monkeypatch):
    """A host would be filled with all sets though they are too many for it."""
    whole = directory([30, 30], 100)
    everything = np.arange(60)
    assert plan_exchange("auto", whole, everything, 10).kind == "gather_all"
    monkeypatch.setattr(module, "GATHER_ALL_LIMIT", 4 * 100 * 60 - 1)
    assert plan_exchange("auto", whole, everything, 10).kind == "queries_only"
    assert plan_exchange("gather_all", whole, everything, 10).kind == "gather_all"
    assert plan_exchange("queries_only", whole, everything[:1], 10).kind == "queries_only"
