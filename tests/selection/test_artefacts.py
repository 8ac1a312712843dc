"""The selection's files: read back as written, those of older runs too."""

import json

import pytest

from nopsd.errors import ArtefactError
from nopsd.selection.artefacts import read_contexts, read_selected
from tests.selection.pools import contexts_of


def test_files_are_read_back_as_written(make_neurons, alone, tmp_path):
    chosen, contexts = contexts_of(make_neurons(30), alone, tmp_path, select={"fraction": 0.3})
    assert read_selected(tmp_path) == chosen and read_contexts(tmp_path) == contexts
    stored = json.loads((tmp_path / "selected.json").read_text())
    assert set(stored) == {"uids", "threshold", "selector", "stats"}
    assert set(stored["stats"]) >= {"count_quantiles", "count_length_correlation", "mean_pairwise_jaccard", "selected"}
    (tmp_path / "selected.json").write_text("{}")
    (tmp_path / "contexts.json").write_text("[]")
    for read in (read_selected, read_contexts):
        with pytest.raises(ArtefactError, match="again"):
            read(tmp_path)


def test_contexts_of_before_samples_were_named_are_still_read(make_neurons, alone, tmp_path):
    _, contexts = contexts_of(make_neurons(12), alone, tmp_path)
    stored = json.loads((tmp_path / "contexts.json").read_text())
    assert {frozenset(n) for near in stored.values() for n in near} == {frozenset({"uid", "sample", "distance"})}
    for near in stored.values():
        for n in near:
            del n["sample"]
    (tmp_path / "contexts.json").write_text(json.dumps(stored))
    assert read_contexts(tmp_path) == contexts
