"""The artefact of signals: it holds what was written, and a missing or damaged one is named."""

import numpy as np
import pytest
import torch

from nopsd.engine.distributed import Ranks
from nopsd.errors import ArtefactError
from nopsd.signals.forward_columns import write_shared_signals
from nopsd.signals.store import FILE, Signals, question_means, read_signals, write_signals

ALONE = Ranks(0, 1, torch.device("cpu"))


def test_the_file_holds_what_was_written_and_nothing_else_stays(tmp_path):
    """Selection reads this file by name and column."""
    signals = Signals(["a", "b"], {"nait": np.array([1.5, -2.0]), "agrees": np.eye(2)}, {"format": 1})
    (tmp_path / "shards-0123").mkdir()
    write_shared_signals(tmp_path, signals, ALONE)
    found = read_signals(tmp_path)
    assert (found.uids, found.header) == (["a", "b"], {"format": 1})
    assert {name: column.tolist() for name, column in found.columns.items()} == {
        "nait": [1.5, -2.0],
        "agrees": [[1, 0], [0, 1]],
    }
    assert all(column.dtype == np.float32 for column in found.columns.values())
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(ArtefactError, match="signals.npz is missing: run the signals stage"):
        read_signals(tmp_path)
    write_signals(tmp_path, Signals(["a"], {"nait": np.ones(1)}))
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:100])
    with pytest.raises(ArtefactError, match="signals.npz is damaged: .*--redo signals"):
        read_signals(tmp_path)
    with pytest.raises(ValueError, match="nait has not 2 rows"):
        write_signals(tmp_path, Signals(["a", "b"], {"nait": np.ones(1)}))


def test_question_means_leave_out_what_is_not_a_number():
    """One empty response must not take its question out of the ranking."""
    rows = {"x": np.array([1.0, np.nan, 3.0, np.nan, 5.0], dtype=np.float32)}
    uids, means = question_means(["b", "a", "b", "c", "a"], rows)
    assert uids == ["a", "b", "c"]
    assert means["x"][:2].tolist() == [5.0, 2.0] and np.isnan(means["x"][2])
