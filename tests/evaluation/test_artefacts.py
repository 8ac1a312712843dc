"""nopsd.evaluation.artefacts: what is written can be read again, and damage is reported."""

import json

import pytest

from nopsd.errors import ArtefactError
from nopsd.evaluation.artefacts import (
    evaluated_domains,
    read_pool_correct,
    read_result,
    rows_path,
    write_metrics,
    write_pool_correct,
    write_results,
    write_rows,
)


def test_rows_on_disk_give_the_same_result_again(tmp_path, make_evaluation, settings):
    result = make_evaluation({"q1": "AAAB", "q2": "B-BA"})
    path = write_rows(tmp_path, "base", result)
    assert path == tmp_path / "eval_base_bio.jsonl"
    row = json.loads(path.read_text().splitlines()[1])
    assert list(row) == ["uid", "answers", "gold", "correct", "majority", "share", "finish_reasons", "lengths"]
    assert row["answers"] == ["B", None, "B", "A"]
    assert read_result(tmp_path, "base", "bio", settings) == result
    path.write_text('{"uid": "q1"}\n')
    with pytest.raises(ArtefactError, match="eval_base_bio.jsonl"):
        read_result(tmp_path, "base", "bio", settings)


def test_metrics_file_holds_every_model_and_target(tmp_path, make_evaluation):
    write_metrics(tmp_path, {"base": {"bio": make_evaluation({"q1": "AAAB"})}})
    stored = json.loads((tmp_path / "metrics.json").read_text())["base"]["bio"]
    assert stored["metrics"]["avg"] == 0.75
    assert stored["intervals"]["avg"] == [0.75, 0.75]


def test_a_domain_name_cannot_leave_the_folder(tmp_path):
    assert rows_path(tmp_path, "base", "../x y").parent == tmp_path
    assert rows_path(tmp_path, "base", "a/b") != rows_path(tmp_path, "base", "a_b")


def test_a_models_domains_can_be_listed_and_an_empty_result_is_one(tmp_path, make_evaluation):
    """Breaks if a run on questions without answers has no metrics.json, or a comparison misses a domain."""
    write_results(tmp_path, "base", {})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"base": {}}
    result = make_evaluation({"q1": "AAAB"})
    write_results(tmp_path, "base", {"bio": result})
    assert evaluated_domains(tmp_path, "base") == ["bio"] and evaluated_domains(tmp_path, "final") == []
    assert rows_path(tmp_path, "base", "bio").exists()


def test_the_pools_shares_are_empty_until_written(tmp_path):
    """Breaks if a run without labels can't be reported on."""
    assert read_pool_correct(tmp_path) == {}
    write_pool_correct(tmp_path, {"q1": 0.5})
    assert read_pool_correct(tmp_path) == {"q1": 0.5}
