"""tools/measure_bf16_sets.py at a tiny size, and its comparisons against plain sets."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from nopsd.neurons.store import pack_ids

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import measure_bf16_sets

    return measure_bf16_sets


class Sets:
    """What the comparisons read of `NeuronSets`."""

    def __init__(self, rows, counts):
        self.ids = pack_ids([np.array(sorted(row), dtype=np.int64) for row in rows])
        self.counts, self.header = np.array(counts, dtype=np.float32), {"widths": [20, 20]}


def random_sets(seed, questions=30):
    draw = random.Random(seed)
    rows = [set(draw.sample(range(40), draw.randint(3, 12))) for _ in range(questions)]
    return rows, Sets(rows, [draw.randint(5, 60) for _ in range(questions)])


def test_distances_equal_those_of_plain_sets(tool):
    """Padding of ragged rows must not count as a neuron."""
    (a, packed_a), (b, packed_b) = random_sets(1), random_sets(2)
    plain = [[1 - len(x & y) / len(x | y) for y in b] for x in a]
    np.testing.assert_allclose(tool.distances(packed_a, packed_b), plain, atol=1e-12)


def test_equal_sets_have_not_moved_and_others_have(tool):
    """The table's figures at their ends: nothing changed, and everything."""
    (rows, sets), (_, other) = random_sets(3), random_sets(4)
    same = tool.compare(sets, Sets(rows, sets.counts))
    assert (same["moved"], same["s_change"], same["identical"]) == (0, 0, 1)
    assert same["s_spearman"] == same["selected"] == same["neighbours"] == pytest.approx(1)
    moved = tool.compare(sets, other)
    assert moved["moved"] > 0.5 and moved["identical"] == 0 and moved["neighbours"] < 0.9
    doubled = tool.compare(sets, Sets(rows, 2 * sets.counts))
    assert (doubled["s_bias"], doubled["s_change"], doubled["selected"]) == (1, 1, 1)
    assert "s_spearman" not in tool.compare(sets, Sets(rows, [7] * 30))  # of equal counts it is not defined


def test_selection_takes_the_lowest_fifth_with_ties_and_neighbours_are_nearest(tool):
    """Its overlaps are the paper's selection and contexts, not another rule's."""
    rows, sets = random_sets(5)
    sets.counts[:] = [3, 1, 2, 2, 2, 2, 2] + [9] * 23
    assert tool.selected(sets) == {1, 2, 3, 4, 5, 6}  # the sixth lowest of 30 is 2
    for i, near in enumerate(tool.neighbours(sets)):
        by_distance = sorted((1 - len(rows[i] & x) / len(rows[i] | x), j) for j, x in enumerate(rows) if j != i)
        assert near == {j for _, j in by_distance[: tool.NEIGHBOURS]}


def test_a_small_run_moves_sets_a_little(tool, tmp_path, capsys):
    """Both models through the real scoring: bf16 changes something, and far less than another question would."""
    tool.main(
        [
            "--questions",
            "12",
            "--max-new",
            "24",
            "--shape",
            "tiny",
            "--samples",
            "2",
            "--response",
            "30",
            "--threads",
            "1",
            "--json",
            str(tmp_path / "figures.json"),
        ]
    )
    lab, tiny = json.loads((tmp_path / "figures.json").read_text())
    assert capsys.readouterr().out.count("\n| ") == 6 and tiny["model"] == "tiny, random"
    assert lab["responses"] == 12 and lab["k"] == 150
    assert lab["bf16"]["float64"]["moved"] <= lab["bf16"]["bf16"]["moved"] / 4  # float32 is near to exact
    assert 0 < lab["bf16"]["bf16"]["moved"] < lab["apart"] / 4
