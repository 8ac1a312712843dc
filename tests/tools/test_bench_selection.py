"""tools/bench_selection.py at a small size: it finishes, checks itself, and its check can fail."""

from pathlib import Path

import numpy as np
import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import bench_selection

    return bench_selection


def test_a_small_run_finds_what_membership_tests_find(bench, capsys):
    """The command of the README would fail, or report searches that are wrong."""
    small = ["--sets", "400", "--k", "60", "--neurons", "3000", "--topics", "5", "--check", "30", "--compare", "40"]
    assert bench.main(small) == 0
    printed = capsys.readouterr().out
    assert "80 selected by neuron count" in printed and "30 queries against membership tests: 0 differ" in printed
    ways = ("nopsd", "scipy sparse", "scipy cdist", "torch float32", "Python sets")
    assert all(f'"{way}"' in printed for way in ways)


def test_synthetic_sets_are_sets_of_different_neurons_as_alike_as_real_ones(bench):
    """A benchmark on sets that share nothing would flatter every sparse method."""
    ids = bench.make_sets(60, 400, 28_000, 5, 0.65, 0, 1)
    sizes = [len(set(row[row >= 0].tolist())) for row in ids]
    assert sizes == [(row >= 0).sum() for row in ids] and max(sizes) == 400 and ids.max() < 28_000
    assert 0.7 < bench.mean_pairwise(ids, 28_000) < 0.9
    assert np.array_equal(ids, bench.make_sets(60, 400, 28_000, 5, 0.65, 0, 1))


def test_the_check_finds_a_wrong_neighbour(bench):
    """A check that cannot fail would let a wrong search pass."""
    ids = bench.make_sets(50, 30, 500, 3, 0.65, 0, 1)
    queries = np.arange(10)
    found = bench.Neighbors(*map(np.stack, zip(*(bench.by_membership(ids, q, 4) for q in queries))))
    assert bench.differing(ids, queries, found, 10, 0) == 0
    found.numbers[3, 2] += 1
    assert bench.differing(ids, queries, found, 10, 0) == 1
