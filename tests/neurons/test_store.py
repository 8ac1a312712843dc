"""The neuron artefact: a damaged, missing or foreign file is named."""

import pytest

from nopsd.errors import ArtefactError
from nopsd.neurons.score_pool import ScoredModel, score_pool
from nopsd.neurons.store import load_neurons, rank_file, read_arrays, read_neurons, write_arrays, write_neurons
from tests.neurons.small import CONFIG, assert_equal


def test_a_file_of_an_older_version_is_refused_by_what_it_lacks(engine, alone, make_rollouts, tmp_path):
    """Else a selector would read a column that is not there and end in a KeyError."""
    score_pool(ScoredModel(engine, "m"), make_rollouts(2), CONFIG, alone, tmp_path)
    header, arrays = read_arrays(rank_file(tmp_path, 0))
    del arrays["agreement"]
    write_arrays(rank_file(tmp_path, 0), header, arrays)
    with pytest.raises(ArtefactError, match="has no agreement .*run the neurons stage again"):
        load_neurons(tmp_path)


def test_files_of_different_making_are_refused_together(engine, alone, make_rollouts, tmp_path):
    found = score_pool(ScoredModel(engine, "m"), make_rollouts(4), CONFIG, alone, tmp_path)
    assert_equal(load_neurons(tmp_path), found)
    other = type(found)(**{**vars(found), "uids": [u + "x" for u in found.uids], "header": {**found.header, "k": 7}})
    write_neurons(rank_file(tmp_path, 1), other)
    with pytest.raises(ArtefactError, match=r"made differently \(k: 20 and 7\)"):
        load_neurons(tmp_path)
    write_neurons(rank_file(tmp_path, 1), found)
    with pytest.raises(ArtefactError, match="has 2 of 1"):
        load_neurons(tmp_path)
    for rank in (0, 1):
        write_neurons(rank_file(tmp_path, rank), type(found)(**{**vars(found), "header": {**found.header, "ranks": 2}}))
    with pytest.raises(ArtefactError, match="q000 stands in more than one"):
        load_neurons(tmp_path)


def test_damaged_and_missing_files_are_named(engine, alone, make_rollouts, tmp_path):
    with pytest.raises(ArtefactError, match="has no neurons.rank"):
        load_neurons(tmp_path)
    score_pool(ScoredModel(engine, "m"), make_rollouts(2), CONFIG, alone, tmp_path)
    path = rank_file(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ArtefactError, match="neurons.rank00000.npz is damaged"):
        read_neurons(path)
