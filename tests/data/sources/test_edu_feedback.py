"""Edu-Feedback: phrases for labels, and the whole pool beside a test file."""

import json
import shutil

import pytest

from nopsd.data.sources import load_answer_key, load_splits
from nopsd.errors import DataError
from tests.data.settings import data


def test_edu_feedback_has_phrases_for_labels(shared_data):
    edu = ("data.name=edu_feedback", f"data.path={shared_data}", "data.test_ratio=0.2")
    splits = load_splits(data(*edu, "data.domain=edu_feedback"))
    with pytest.raises(DataError, match="data.domain=edu: data.name=edu_feedback has one domain, use edu_feedback"):
        load_splits(data(*edu, "data.domain=edu"))  # else its own test questions count as another domain's
    assert {o.label for o in splits.pool[0].options} == {"With Explanation", "Without Explanation"}


def test_edu_feedback_keeps_its_whole_pool_beside_a_test_file(shared_data, tmp_path):
    """The paper trains on all 1,799 comments and tests on others: a split of the pool would be another pool."""
    shutil.copy(shared_data / "edu_feedback_pool.jsonl.gz", tmp_path)
    config = data("data.name=edu_feedback", "data.domain=edu_feedback", f"data.path={tmp_path}", "data.test_ratio=0.2")
    alone = load_splits(config)
    assert (len(alone.pool), len(alone.tests["edu_feedback"])) == (1439, 360)
    assert "360 of the 1799 rows" in alone.note and "1439 are the pool" in alone.note, "taken for the paper's"
    rows = [{"id": i, "input": f"Comment {i}.", "label": "With Explanation"} for i in range(10)]
    (tmp_path / "edu_feedback_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = load_splits(config)
    assert (len(splits.pool), len(splits.tests["edu_feedback"])) == (1799, 10)
    assert splits.note == ""
    key = load_answer_key(config)
    assert all(key[q.uid] == "With Explanation" for q in splits.tests["edu_feedback"])
    assert not {q.uid for q in splits.pool} & {q.uid for q in splits.tests["edu_feedback"]}
