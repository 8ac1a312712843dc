"""Data sources on real rows and on a user's own files; labels must not reach anything but evaluation."""

import csv
import json

import pytest

from nopsd.config import load_config
from nopsd.data.sources import load_answer_key, load_splits
from nopsd.errors import DataError


def data(*overrides):
    return load_config("lab", list(overrides)).data


@pytest.mark.parametrize(
    ("domain", "train", "test"),
    [
        ("Biology", 3541, 394),
        ("Material", 4460, 496),
        ("Physics", 2984, 332),
        ("Chemistry", 5636, 627),
    ],
)
def test_sciknoweval_splits_have_the_papers_sizes(shared_data, domain, train, test):
    """The paper's N in Fig. 3, which follow from the numbers of questions with four options."""
    splits = load_splits(data("data.name=sciknoweval", f"data.path={shared_data}", f"data.domain={domain}"))
    assert (len(splits.pool), len(splits.tests[domain])) == (train, test)
    assert not {q.uid for q in splits.pool} & {q.uid for q in splits.tests[domain]}


def test_mmlu_pro_split_has_the_papers_size(shared_data):
    config = data("data.name=mmlu_pro", f"data.path={shared_data}", "data.domain=mmlu_pro", "data.test_ratio=0.2")
    splits = load_splits(config)
    assert (len(splits.pool), len(splits.tests["mmlu_pro"])) == (9625, 2407)
    key = load_answer_key(config)
    assert all(key[q.uid] in {o.label for o in q.options} for q in splits.tests["mmlu_pro"])


def test_edu_feedback_has_phrases_for_labels(shared_data):
    edu = ("data.name=edu_feedback", f"data.path={shared_data}", "data.test_ratio=0.2")
    splits = load_splits(data(*edu, "data.domain=edu_feedback"))
    with pytest.raises(DataError, match="data.domain=edu: data.name=edu_feedback has one domain, use edu_feedback"):
        load_splits(data(*edu, "data.domain=edu"))  # else its own test questions count as another domain's
    assert {o.label for o in splits.pool[0].options} == {"With Explanation", "Without Explanation"}


def test_lab_pools_and_tests_are_disjoint():
    splits = load_splits(data())
    assert len(splits.pool) >= 1500 and len(splits.tests) >= 4
    texts = {q.question for q in splits.pool}
    assert all(q.question not in texts for tests in splits.tests.values() for q in tests)


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


def test_missing_file_and_unreachable_hub_say_so(tmp_path):
    with pytest.raises(DataError, match="does not exist: set data.path"):
        load_splits(file_data(f"data.path={tmp_path / 'no.jsonl'}"))
    with pytest.raises(DataError, match="hub data set hicai-zju/SciKnowEval can't be loaded"):
        load_splits(data("data.name=sciknoweval"))  # tests run with the hub offline


def test_options_without_an_answer_are_refused_for_evaluation_only(tmp_path):
    from nopsd.evaluation.evaluate import check_answers

    rows = [{"id": i, "question": f"Pick {i}", "options": ["a", "b"], "answer": "A" if i else None} for i in range(4)]
    config = file_data(write_jsonl(tmp_path / "q.jsonl", rows), "data.test_ratio=0.5")
    splits = load_splits(config)
    questions = [*splits.pool, *splits.tests["mine"]]
    with pytest.raises(DataError, match="question 0 has options but no answer"):
        check_answers(questions, load_answer_key(config))
