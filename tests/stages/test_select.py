"""The rows that were selected, as a user takes them elsewhere: in the file's own form and order."""

import json
from types import SimpleNamespace

import pytest

from nopsd.config import load_config
from nopsd.errors import ArtefactError
from nopsd.run.folder import RunFolder
from nopsd.stages.select import write_selected_rows


def chosen(tmp_path, monkeypatch, uids, *overrides):
    """A session with `uids` selected."""
    run = RunFolder(tmp_path / "run")
    monkeypatch.setattr(RunFolder, "selection", lambda run: SimpleNamespace(uids=uids))
    return SimpleNamespace(config=load_config("lab", list(overrides)), run=run, pool=[])


def test_the_chosen_rows_are_copied_in_the_files_order(tmp_path, monkeypatch):
    rows = [f'{{"id":"q{i}",   "question":"Q {i}", "answer": "A", "more": [{i}]}}' for i in range(6)]
    (tmp_path / "q.jsonl").write_text("\n".join(rows))
    settings = ("data.name=file", f"data.path={tmp_path / 'q.jsonl'}", "data.domain=mine")
    session = chosen(tmp_path, monkeypatch, ["q4", "q1"], *settings)
    said = write_selected_rows(session)
    written = tmp_path / "run" / "select" / "selected.jsonl"
    assert written.read_text() == f"{rows[1]}\n{rows[4]}\n" and said.startswith("2 of") and str(written) in said
    written.unlink()
    with pytest.raises(ArtefactError, match="q.jsonl has no row q9"):
        write_selected_rows(chosen(tmp_path, monkeypatch, ["q9"], *settings))


def test_data_without_a_file_give_their_questions(tmp_path, monkeypatch):
    from nopsd.data.records import Question

    session = chosen(tmp_path, monkeypatch, ["b"])
    session.pool = [Question(uid, "d", "lab", f"{uid}?") for uid in "abc"]
    assert write_selected_rows(session).startswith("1 of 3")
    (row,) = (tmp_path / "run" / "select" / "selected.jsonl").read_text().splitlines()
    assert Question.from_json(json.loads(row)) == session.pool[1]
