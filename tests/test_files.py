"""Files are written whole or not at all, and a damaged one says what to do."""

import pytest

from nopsd.errors import ArtefactError
from nopsd.files import LONGEST_NAME, file_name, read_json, read_jsonl, write_atomic, write_json


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


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "x.json", "data")
    assert list(tmp_path.iterdir()) == []


def test_names_that_a_file_system_cannot_hold_are_shortened_and_stay_apart():
    """A domain of 32 Chinese characters ended the evaluation after its rollouts."""
    long = [file_name("eval", "base", "\u751f" * 32 + last) for last in "ab"]
    assert len(set(long)) == 2 and all(len(name) <= LONGEST_NAME for name in long) and "%" in long[0]
    assert file_name("eval", "base", "mmlu pro/x") == "eval_base_mmlu%20pro%2Fx"
