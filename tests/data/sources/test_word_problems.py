"""SVAMP and GSM8K: the same questions from the hub and from local files, and answers that are numbers."""

import json

import datasets
import pytest

from nopsd.data.sources import hub_id, load_answer_key, load_splits, published_sizes
from nopsd.errors import DataError
from tests.data.settings import data

SVAMP = [
    {
        "ID": f"chal-{n}",
        "Body": f"Dan had {n} apples{'.' if n % 2 else ' and ate none'}",
        "Question": "How many are left?",
        "Equation": f"( {n} - 0 )",
        "Answer": f"{n}.00",
        "Type": "Subtraction",
    }
    for n in range(1, 21)
]
GSM8K = [{"question": f"What is {n} times 1000?", "answer": f"{n}*1000=<<x>>\n#### {n},000"} for n in range(1, 9)]


def svamp(*more):
    return data("data.name=svamp", "data.domain=svamp", "data.test_ratio=0.3", *more)


def gsm8k(*more):
    return data("data.name=gsm8k", "data.domain=gsm8k", *more)


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_svamp_is_the_same_questions_from_hub_and_file(tmp_path, monkeypatch):
    """The hub's rows are shuffled and split: were they taken in that order, a run without network would train and
    test on other questions."""
    parts = {"train": SVAMP[12:] + SVAMP[:6], "test": SVAMP[6:12]}
    monkeypatch.setattr(datasets, "load_dataset", lambda path, split: datasets.Dataset.from_list(parts[split]))
    (tmp_path / "svamp.json").write_text(json.dumps([{**row, "Answer": float(row["Answer"])} for row in SVAMP]))
    hub, local = svamp(), svamp(f"data.path={tmp_path}")
    assert load_splits(hub) == load_splits(local)
    assert load_answer_key(hub) == load_answer_key(local) and load_answer_key(hub)["svamp-7"] == "7"
    asked = {q.uid: q.question for q in load_splits(hub).pool}
    everything = {**asked, **{q.uid: q.question for q in load_splits(hub).tests["svamp"]}}
    assert everything["svamp-1"] == "Dan had 1 apples. How many are left?"
    assert everything["svamp-2"] == "Dan had 2 apples and ate none, How many are left?"


def test_the_operation_of_a_problem_is_no_part_of_it(tmp_path):
    """`Equation` and `Type` give most of the answer away."""
    other = [{**row, "Equation": "POISON", "Type": "POISON", "Answer": 0.0} for row in SVAMP]
    for name, rows in (("clean", SVAMP), ("poisoned", other)):
        lines(tmp_path / f"{name}.jsonl", rows)
    clean, poisoned = (svamp(f"data.path={tmp_path / f'{name}.jsonl'}") for name in ("clean", "poisoned"))
    assert load_splits(clean) == load_splits(poisoned)


def test_svamp_as_published_has_a_thousand_problems(shared_data):
    splits = load_splits(svamp(f"data.path={shared_data / 'svamp.json.gz'}"))
    assert (len(splits.pool), len(splits.tests["svamp"])) == (700, 300)
    assert published_sizes(svamp()) == (700, {"svamp": 300})


def test_gsm8k_keeps_its_published_test(tmp_path):
    lines(tmp_path / "gsm8k_train.jsonl", GSM8K[:5])
    lines(tmp_path / "gsm8k_test.jsonl", GSM8K[5:])
    config = gsm8k(f"data.path={tmp_path}")
    splits = load_splits(config)
    assert (len(splits.pool), len(splits.tests["gsm8k"])) == (5, 3)
    assert load_answer_key(config)["gsm8k-test-0"] == "6000", "numbers are compared without thousands' commas"
    assert "####" not in repr(splits)
    alone = load_splits(gsm8k(f"data.path={tmp_path / 'gsm8k_train.jsonl'}", "data.test_ratio=0.4"))
    assert (len(alone.pool), len(alone.tests["gsm8k"])) == (3, 2)


def test_what_would_be_asked_of_the_hub():
    assert (hub_id(svamp()), hub_id(gsm8k())) == ("ChilleD/SVAMP", "openai/gsm8k")
    assert published_sizes(gsm8k()) == (7473, {"gsm8k": 1319})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: gsm8k(f"data.path={folder}"), "no file gsm8k_train"),
        (lambda folder: svamp(f"data.path={folder / 'rows.jsonl'}"), r"rows.jsonl:1: a row of SVAMP has an `ID`"),
        (lambda folder: data("data.name=svamp", "data.domain=maths"), "one domain, use svamp"),
        (lambda folder: data("data.name=gsm8k", "data.domain=maths"), "one domain, use gsm8k"),
    ],
)
def test_rows_of_another_form_are_refused(tmp_path, make, words):
    lines(tmp_path / "rows.jsonl", GSM8K)
    with pytest.raises(DataError, match=words):
        load_splits(make(tmp_path))
