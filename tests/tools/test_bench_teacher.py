"""tools/bench_teacher.py at a small size: it finishes, compares what it times, and its check can fail."""

from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SMALL = ["--hidden", "32", "--layers", "2", "--context", "300", "--response", "9", "--questions", "2", "--turns", "1"]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import bench_teacher

    return bench_teacher


def test_a_small_run_tells_every_way(bench, capsys):
    """The command of the README would fail, or time a way that reuses nothing."""
    ways = bench.ways_of(bench.model_of(32, 2), bench_sizes())
    for way in ways:
        bench.measure(way)
    fills = {way.name: (way.reader.fills, way.reader.hits) for way in ways}
    assert fills["contexts 4"] == (2, 6) and fills["whole 4"] == fills["whole 1"] == (0, 0)
    assert fills["filling 1"] == fills["held 1"] == (4, 2)  # one reader: filled at first, filled anew, held
    assert bench.main(SMALL) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("whole 1", "filling 1", "held 1", "whole 4", "contexts 4"))


def bench_sizes():
    from argparse import Namespace

    return Namespace(questions=2, n=4, context=300, response=9, micro=4)


def test_other_states_are_an_error(bench, monkeypatch, capsys):
    """A faster way to other hidden states is none."""
    true_measure = bench.measure

    def wrong(way):
        seconds, states = true_measure(way)
        return seconds, states * 1.01 if way.name == "held 1" else states

    monkeypatch.setattr(bench, "measure", wrong)
    assert bench.main(SMALL) == 1
