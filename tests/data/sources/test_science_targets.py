"""GPQA, SuperGPQA, ARC and MedMCQA on a few rows written in their form: a shifted answer would be another benchmark."""

import csv
import json
from collections import Counter

import pytest

from nopsd.config import load_config
from nopsd.data.sources import load_answer_key, load_splits
from nopsd.errors import DataError
from nopsd.evaluation.judge import Judge

GPQA = ["Record ID", "Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"]
ROWS = {
    "supergpqa": [
        {
            "uuid": f"u{i}",
            "question": f"S {i}?",
            "options": ["w", "x", "y", f"z{i}"],
            "answer": "y",
            "answer_letter": "C",
        }
        for i in range(6)
    ],
    "arc": [
        {"id": f"a{i}", "question": f"A {i}?", "choices": {"text": ["w", "x"], "label": labels}, "answerKey": labels[1]}
        for i, labels in enumerate([["A", "B"], ["1", "2"], ["A", "B"], ["A", "B"]])
    ],
    "medmcqa": [
        {
            "id": f"m{i}",
            "question": f"M {i}?",
            "opa": "w",
            "opb": "x",
            "opc": "y",
            "opd": "z",
            "cop": i % 3,
            "exp": None,
        }
        for i in range(6)
    ],
}


def of_file(tmp_path, name, *settings):
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
    return load_config(f"data/{name}", [f"data.path={path}", *settings]).data


def right_texts(data):
    """The text of each test question's right option, by its number."""
    splits, key = load_splits(data), load_answer_key(data)
    questions = [q for tests in splits.tests.values() for q in tests]
    assert questions
    return {q.question: {o.label: o.text for o in q.options}[key[q.uid]] for q in questions}


@pytest.mark.parametrize("name", ["supergpqa", "arc"])
def test_the_right_option_is_the_one_that_the_row_names(tmp_path, name):
    """In a local copy, without a test of its own, a part is split off."""
    settings = {"arc": ["data.test_split=null", "data.config=null"]}.get(name, [])
    wanted = {"supergpqa": "y", "arc": "x"}[name]
    assert set(right_texts(of_file(tmp_path, name, "data.test_ratio=0.5", *settings)).values()) == {wanted}


@pytest.mark.parametrize("first", [0, 1])
def test_medmcqas_index_counts_from_0_on_the_hub_and_from_1_in_its_own_files(tmp_path, monkeypatch, first):
    rows = [{**row, "cop": row["cop"] + first} for row in ROWS["medmcqa"]]
    monkeypatch.setitem(ROWS, "medmcqa", rows)
    data = of_file(tmp_path, "medmcqa", "data.test_split=null", "data.test_ratio=0.5", f"data.first_index={first}")
    found = right_texts(data)
    assert all(text == "wxyz"[int(question.split()[1][:-1]) % 3] for question, text in found.items())


def gpqa_rows(path, count):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(GPQA)
        writer.writerows([f"rec{i}", f"G {i}?", f"right {i}", "no", "nor this", "never"] for i in range(count))
    return path


def test_gpqas_right_answer_stands_under_each_letter_alike(tmp_path):
    """In the columns it is always the first: unshuffled, A would be right everywhere."""
    path = gpqa_rows(tmp_path / "gpqa_main.csv", 400)
    data = load_config("data/gpqa", [f"data.path={path}"]).data
    assert all(text == f"right {question.split()[1][:-1]}" for question, text in right_texts(data).items())
    counts = Counter(load_answer_key(data).values())
    assert set(counts) == set("ABCD") and min(counts.values()) > 70  # of 100 each, 4 deviations
    again = load_config("data/gpqa", [f"data.path={path}", "data.seed=7"]).data
    assert load_splits(data) == load_splits(data) and load_answer_key(again) != load_answer_key(data)
    assert len(load_splits(data).tests["gpqa"]) == 360


def test_gpqas_rows_of_another_form_are_refused(tmp_path):
    path = tmp_path / "gpqa_main.csv"
    path.write_text("Question,Correct Answer\nx,y\n")
    with pytest.raises(DataError, match="gpqa_main.csv:2: a GPQA row has 'Incorrect Answer 1'"):
        load_splits(load_config("data/gpqa", [f"data.path={path}"]).data)


def test_a_preset_is_a_target_beside_a_runs_own_tests(tmp_path):
    """As in eval.targets=[data/gpqa], with the user's path in a preset of theirs."""
    path = gpqa_rows(tmp_path / "gpqa_main.csv", 20)
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"base: data/gpqa\ndata: {{path: {path}}}\n")
    config = load_config("lab", [f"eval.targets=[biology,{mine}]"])
    from nopsd.data.sources.others import load_run_splits

    tests = load_run_splits(config).tests
    assert len(tests["gpqa"]) == 18
    Judge(config).check(tests)
