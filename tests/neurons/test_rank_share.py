"""A rank reads its own rows of the neuron artefact; what the others hold reaches it by all-gather alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from nopsd.neurons.rank_share import share_of_files
from nopsd.neurons.store import NeuronSets, rank_file, write_neurons

HERE = Path(__file__).parent
QUESTIONS, K, M = 37, 6, 40
WRITERS = (1, 2, 3, 4)


@pytest.mark.parametrize("files", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("world", [1, 2, 3, 4, 9])
def test_every_row_of_every_file_is_read_by_one_rank(files, world):
    """A row that two ranks or none reads would stop the selection or change it."""
    read = [
        (file, row)
        for rank in range(world)
        for file, rows in share_of_files(files, rank, world)
        for row in range(20)[rows]
    ]
    assert sorted(read) == [(file, row) for file in range(files) for row in range(20)]


def test_as_many_ranks_as_files_read_their_own_and_fewer_read_whole_files():
    assert [share_of_files(4, rank, 4) for rank in range(4)] == [[(rank, slice(None))] for rank in range(4)]
    assert share_of_files(5, 1, 2) == [(1, slice(None)), (3, slice(None))]


def neuron_sets():
    draw = np.random.default_rng(5)
    ids = np.sort(draw.permuted(np.tile(np.arange(M), (QUESTIONS, 1)), axis=1)[:, :K], axis=1).astype(np.int32)
    return NeuronSets(
        [f"q{i:03d}" for i in range(QUESTIONS)],
        draw.integers(5, 12, QUESTIONS).astype(np.float32),  # few values: ties
        ids,
        np.ones((QUESTIONS, K), np.float16),
        draw.integers(3, 30, QUESTIONS).astype(np.int32),
        np.zeros(QUESTIONS, bool),
        np.zeros((QUESTIONS, 2), np.int32),
        {"widths": [M // 2, M // 2]},
    )


@pytest.mark.engine
def test_other_ranks_files_unreadable_the_selection_is_equal(run_ranks, tmp_path):
    """At 1, 2 and 4 ranks, from the files of 1, 2, 3 and 4: no rank opens a file of another, and nothing changes."""
    whole, folders = neuron_sets(), {}
    for writers in WRITERS:
        folders[str(writers)] = tmp_path / f"written-by-{writers}"
        for rank in range(writers):
            part = whole.rows(slice(rank, None, writers))
            header = {**whole.header, "ranks": writers}
            write_neurons(rank_file(folders[str(writers)], rank), NeuronSets(**{**vars(part), "header": header}))
    out = tmp_path / "out"
    run_ranks(HERE / "worker_rank_share.py", {"folders": {k: str(v) for k, v in folders.items()}, "out": out}, 1, 2, 4)
    wanted = out / "1" / "1" / "selection"
    for size in (1, 2, 4):
        for writers in map(str, WRITERS):
            for name in ("selected.json", "contexts.json", "scores.jsonl"):
                found = out / str(size) / writers / "selection" / name
                assert found.read_bytes() == (wanted / name).read_bytes(), (size, writers, name)
            held = [json.loads((out / str(size) / writers / f"uids.{r}.json").read_text()) for r in range(size)]
            assert sorted(uid for uids in held for uid in uids) == whole.uids and all(held)
