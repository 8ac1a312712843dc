"""Sources of questions, whatever their kind: splits, published sizes, what is asked of the hub."""

import json

import datasets
import pytest

from nopsd.data.sources import hub_id, load_splits, published_sizes
from nopsd.errors import DataError
from tests.data.settings import data


def test_lab_pools_and_tests_are_disjoint():
    splits = load_splits(data())
    assert len(splits.pool) >= 1500 and len(splits.tests) >= 4
    texts = {q.question for q in splits.pool}
    assert all(q.question not in texts for tests in splits.tests.values() for q in tests)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(DataError, match="does not exist: set data.path"):
        load_splits(data("data.name=file", f"data.path={tmp_path / 'no.jsonl'}", "data.domain=mine"))


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
