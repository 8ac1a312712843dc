"""The paper's data sets from local files and from the hub's path, and a user's own by a column mapping."""

import csv
import json
import shutil

import datasets
import pytest

from nopsd.config import load_config
from nopsd.data.sources import hub_id, load_answer_key, load_splits, published_sizes
from nopsd.errors import DataError


def data(*overrides):
    return load_config("lab", list(overrides)).data


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


@pytest.mark.parametrize(
    ("domain", "pool", "test"),
    [("Biology", 3541, 394), ("Material", 4460, 496), ("Physics", 2984, 332), ("Chemistry", 5636, 627)],
)
def test_published_sizes_are_computed_as_the_split_makes_them(domain, pool, test):
    """`--dry-run` shows them before the data are here."""
    sizes = published_sizes(data("data.name=sciknoweval", f"data.domain={domain}"))
    assert (sizes[0], sizes[1][domain]) == (pool, test)
    mmlu = published_sizes(data("data.name=mmlu_pro", "data.domain=mmlu_pro", "data.test_ratio=0.2"))
    assert mmlu == (9625, {"mmlu_pro": 2407})
    assert published_sizes(data("data.name=sciknoweval", "data.domain=Biology", "data.levels=[L3]")) is None
    assert published_sizes(data("data.name=mmlu_pro", "data.domain=law")) is None


@pytest.mark.parametrize(
    ("overrides", "asked"),
    [
        (["data.name=sciknoweval"], "hicai-zju/SciKnowEval"),
        (["data.name=sciknoweval", "data.path=me/mirror"], "me/mirror"),
        (["data.name=mmlu_pro"], "TIGER-Lab/MMLU-Pro"),
        (["data.name=edu_feedback"], None),
        (["data.name=file", "data.path=me/questions"], "me/questions"),
        (["data.name=file", "data.path=me/questions.jsonl"], None),
        (["data.name=lab"], None),
    ],
)
def test_which_hub_set_would_be_asked(overrides, asked):
    assert hub_id(data(*overrides)) == asked


@pytest.mark.parametrize("name", ["sciknoweval", "mmlu_pro"])
def test_an_unreachable_hub_names_set_and_remedy(name):
    """Tests run with the hub offline, as many clusters do."""
    with pytest.raises(DataError, match=r"hub data set .*/.* can't be loaded .*set data.path to a local copy"):
        load_splits(data(f"data.name={name}"))


HUB_ROWS = {
    "sciknoweval": [
        {
            "question": f"Which {i}?",
            "choices": {"text": ["x", "y", "z", "w"], "label": list("ABCD")},
            "answerKey": "B",
            "answer": "y",
            "type": "mcq-4-choices" if i < 20 else "true_or_false",
            "domain": "Biology",
            "details": {"level": "L1", "task": "t", "subtask": "s", "source": "c"},
        }
        for i in range(25)
    ],
    "mmlu_pro": [
        {
            "question_id": i,
            "question": f"Which {i}?",
            "options": ["x", "y", "N/A", "z"],
            "answer": "B",
            "answer_index": 1,
            "cot_content": "",
            "category": "law",
            "src": "c",
        }
        for i in range(20)
    ],
}


@pytest.mark.parametrize(("name", "domain"), [("sciknoweval", "Biology"), ("mmlu_pro", "mmlu_pro")])
def test_hub_and_local_file_of_the_same_schema_give_the_same_questions(name, domain, tmp_path, monkeypatch):
    """Else a run on a cluster without network is another experiment."""
    rows, asked = HUB_ROWS[name], []

    def from_hub(path, split):
        asked.append((path, split))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", from_hub)
    hub = load_splits(data(f"data.name={name}", f"data.domain={domain}"))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    for file in ("rows.jsonl", "rows.parquet"):
        assert load_splits(data(f"data.name={name}", f"data.domain={domain}", f"data.path={tmp_path / file}")) == hub
    assert len(hub.pool) == 18 and len(hub.tests[domain]) == 2
    assert asked == [(hub_id(data(f"data.name={name}")), "test")]


OWN = [{"key": f"k{i}", "ask": f"Pick {i}", "which": ["yes", "no"], "gold": "A", "field": "mine"} for i in range(10)]
MAPPED = ["data.id_column=key", "data.question_column=ask", "data.options_column=which", "data.answer_column=gold"]


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
