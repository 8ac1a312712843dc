"""A user's own questions from a file: what becomes the pool, and what is refused by its place."""

import csv
import json

import datasets
import pytest

from nopsd.data.sources import load_answer_key, load_splits
from nopsd.errors import DataError
from tests.data.settings import data


def write_jsonl(path, rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return f"data.path={path}"


def file_data(path_override, *more):
    return data("data.name=file", path_override, "data.domain=mine", *more)


def test_unlabeled_questions_all_go_to_the_pool(tmp_path):
    path = write_jsonl(tmp_path / "q.jsonl", [{"question": f"What is {i}?"} for i in range(5)])
    splits = load_splits(file_data(path))
    assert len(splits.pool) == 5 and splits.tests == {}


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_labelled_files_of_each_kind_split(tmp_path, kind):
    rows = [{"id": f"q{i}", "question": f"Pick {i}", "options": ["yes", "no"], "answer": "A"} for i in range(10)]
    path = tmp_path / f"q.{kind}"
    if kind == "csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows([{**r, "options": json.dumps(r["options"])} for r in rows])
    elif kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        write_jsonl(path, rows)
    config = file_data(f"data.path={path}", "data.test_ratio=0.2")
    splits = load_splits(config)
    assert (len(splits.pool), len(splits.tests["mine"])) == (8, 2)
    assert splits.pool[0].options[1].text == "no" and set(load_answer_key(config).values()) == {"A"}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (['{"question": '], r"q.jsonl:1: not JSON"),
        ([{"question": "a"}, "[1]"], r"q.jsonl:2: a JSON object"),
        ([{"question": "a"}, {"question": "  "}], r"q.jsonl:2: no text in column `question`"),
        ([{"text": "a"}], r"columns: text.*data.question_column"),
        ([{"id": 1, "question": "a"}, {"id": 1, "question": "b"}], r"q.jsonl:2: id 1 was used before, at .*q.jsonl:1"),
        ([{"question": "a", "options": "x"}], r"q.jsonl:1: options must be"),
        ([], r"the pool .* is empty"),
    ],
)
def test_bad_files_are_refused_by_place(tmp_path, rows, said):
    path = write_jsonl(tmp_path / "q.jsonl", rows)
    with pytest.raises(DataError, match=said):
        load_splits(file_data(path))


def test_options_without_an_answer_are_refused_for_evaluation_only(tmp_path):
    from nopsd.evaluation.evaluate import check_answers

    rows = [{"id": i, "question": f"Pick {i}", "options": ["a", "b"], "answer": "A" if i else None} for i in range(4)]
    config = file_data(write_jsonl(tmp_path / "q.jsonl", rows), "data.test_ratio=0.5")
    splits = load_splits(config)
    questions = [*splits.pool, *splits.tests["mine"]]
    with pytest.raises(DataError, match="question 0 has options but no answer"):
        check_answers(questions, load_answer_key(config))


OWN = [{"key": f"k{i}", "ask": f"Pick {i}", "which": ["yes", "no"], "gold": "A", "field": "mine"} for i in range(10)]


MAPPED = ["data.id_column=key", "data.question_column=ask", "data.options_column=which", "data.answer_column=gold"]


def test_a_folders_hidden_files_and_folders_are_passed_over(tmp_path):
    """Those that macOS puts beside each file hold no rows."""
    (tmp_path / "q.csv").write_text("question\na\nb\n")
    (tmp_path / "._q.csv").write_bytes(b"\0\5\x16")
    (tmp_path / "old.csv").mkdir()
    assert len(load_splits(data("data.name=file", "data.domain=d", f"data.path={tmp_path}")).pool) == 2


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "hub"])
def test_a_users_columns_are_mapped_in_every_kind_of_file(kind, tmp_path, monkeypatch):
    """A user's own rows keep their names; the answer column stays evaluation's alone."""
    path = "me/own" if kind == "hub" else tmp_path / f"own.{kind}"
    if kind == "hub":
        monkeypatch.setattr(datasets, "load_dataset", lambda path, split: datasets.Dataset.from_list(OWN))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in OWN))
    elif kind == "parquet":
        datasets.Dataset.from_list(OWN).to_parquet(path)
    else:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, OWN[0])
            writer.writeheader()
            writer.writerows([{**row, "which": json.dumps(row["which"])} for row in OWN])
    config = data("data.name=file", "data.domain=mine", f"data.path={path}", "data.test_ratio=0.2", *MAPPED)
    splits = load_splits(config)
    assert (len(splits.pool), len(splits.tests["mine"])) == (8, 2)
    assert {q.uid for q in [*splits.pool, *splits.tests["mine"]]} == {row["key"] for row in OWN}
    assert [o.text for o in splits.pool[0].options] == ["yes", "no"]
    assert set(load_answer_key(config).values()) == {"A"} and "gold" not in splits.pool[0].to_json()
