"""Poison the answer column: nothing that training or selection reads may change (the mission's own rule)."""

import ast
import gzip
import json
from dataclasses import fields
from itertools import islice
from pathlib import Path

import nopsd
from nopsd.config import load_config
from nopsd.data.records import Question
from nopsd.data.sources import load_answer_key, load_splits

PACKAGE = Path(nopsd.__file__).parent
POISON = "POISON"
ROWS = 500  # of each file: the columns are the same in all its rows


def poisoned(source: Path, target: Path, columns: tuple[str, ...]) -> None:
    with gzip.open(source, "rt") as rows, gzip.open(target, "wt") as out:
        for line in islice(rows, ROWS):
            row = json.loads(line)
            row.update({c: POISON for c in columns if c in row})
            out.write(json.dumps(row) + "\n")


def test_a_question_has_no_answer_field():
    assert not {f.name for f in fields(Question)} & {"answer", "gold", "label", "answerKey", "answer_index"}


def test_poisoned_answers_change_nothing_before_evaluation(shared_data, tmp_path):
    """Splits are equal to the byte under a poisoned answer column, and only the answer key sees the poison."""
    cases = (
        (
            "sciknoweval_physics_mcq4.jsonl.gz",
            ("answerKey", "answer"),
            ("data.name=sciknoweval", "data.domain=Physics"),
        ),
        ("mmlu_pro_test.jsonl.gz", ("answer", "answer_index"), ("data.name=mmlu_pro", "data.domain=mmlu_pro")),
        ("edu_feedback_pool.jsonl.gz", ("label",), ("data.name=edu_feedback", "data.domain=edu_feedback")),
    )
    for name, columns, overrides in cases:
        for folder, changed in (("clean", ()), ("bad", columns)):
            (tmp_path / folder).mkdir(exist_ok=True)
            poisoned(shared_data / name, tmp_path / folder / name, changed)
        clean, bad = (
            load_config("lab", [*overrides, f"data.path={tmp_path / folder / name}"]).data
            for folder in ("clean", "bad")
        )
        assert load_splits(clean) == load_splits(bad)
        assert POISON not in repr(load_splits(bad))
        assert set(load_answer_key(bad).values()) == {POISON}


def test_poisoned_user_file_changes_nothing(tmp_path):
    for name, answer in (("clean", "A"), ("poison", POISON)):
        rows = [{"id": i, "question": f"q {i}", "options": ["x", "y"], "answer": answer} for i in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    clean, bad = (
        load_splits(load_config("lab", ["data.name=file", "data.domain=d", f"data.path={tmp_path / n}.jsonl"]).data)
        for n in ("clean", "poison")
    )
    assert clean == bad and POISON not in repr(bad)


def test_only_evaluation_imports_the_answer_key():
    """No module names the answer key's loader but evaluation and the sources that define it (the lab's among them)."""
    allowed = {"evaluation", "data"}
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] in allowed or path == PACKAGE / "lab" / "source.py":
            continue
        names = {
            n.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
            for n in node.names
        }
        assert not names & {"load_answer_key", "load_answers", "load_run_answers", "AnswerKey"}, path
