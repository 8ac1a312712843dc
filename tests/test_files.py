"""Files are written whole or not at all, and a damaged one says what to do."""

import pytest

from nopsd.errors import ArtefactError
from nopsd.files import read_json, read_jsonl, write_json


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_json(path, object())
    assert read_json(path) == 1 and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_missing_and_damaged_json_say_what_to_do(tmp_path):
    with pytest.raises(ArtefactError, match="missing: run the stage"):
        read_json(tmp_path / "no.json")
    (tmp_path / "bad.jsonl").write_text("{\n")
    with pytest.raises(ArtefactError, match="damaged"):
        read_jsonl(tmp_path / "bad.jsonl")
