"""Question files as people have them: each is read as what it says, or refused in one line that names the place."""

from pathlib import Path

import pytest

from nopsd.data.sources import load_answer_key, load_splits
from nopsd.errors import DataError
from nopsd.evaluation.evaluate import check_answers
from tests.data.file_texts import ARC, ROWS, TEXTS, arc, asked, jsonl, labelled, nested
from tests.data.question_files import READ
from tests.data.refused_files import REFUSED, REFUSED_ANSWERS
from tests.data.settings import data

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"


def settings(tmp_path, name, content, more):
    content = "".join(content) if isinstance(content, list) else content
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return data("data.name=file", "data.domain=mine", "data.test_ratio=0.5", f"data.path={tmp_path / name}", *more)


def everything(config):
    splits = load_splits(config)
    return splits, [*splits.pool, *(q for tests in splits.tests.values() for q in tests)]


@pytest.mark.parametrize("name", READ)
def test_a_file_is_read_as_what_it_says(name, tmp_path):
    file, content, more, expected = READ[name]
    config = settings(tmp_path, file, content, more)
    splits, questions = everything(config)
    key = load_answer_key(config)
    assert len(questions) == expected["rows"] and splits.tests["mine"], name
    for tests in splits.tests.values():
        check_answers(tests, key)
    by_place = sorted(questions, key=lambda q: int("".join(c for c in q.uid if c.isdigit())))
    if "options" in expected:
        assert [(o.label, o.text) for o in by_place[0].options] == expected["options"]
    assert [key[q.uid] for q in by_place][: len(expected["gold"])] == expected["gold"]
    assert by_place[0].question == expected.get("question", by_place[0].question)
    assert by_place[0].uid == expected.get("ids", by_place[0].uid)


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_is_refused_in_one_line_with_its_place(name, tmp_path):
    file, content, more, words = REFUSED[name]
    with pytest.raises(DataError, match=words) as found:
        everything(settings(tmp_path, file, content, more))
    assert len(str(found.value).splitlines()) == 1


@pytest.mark.parametrize("name", REFUSED_ANSWERS)
def test_answers_are_refused_before_anything_is_sampled(name, tmp_path):
    file, content, more, words = REFUSED_ANSWERS[name]
    config = settings(tmp_path, file, content, more)
    splits, _ = everything(config)
    with pytest.raises(DataError, match=words) as found:
        check_answers(splits.tests["mine"], load_answer_key(config))
    assert len(str(found.value).splitlines()) == 1


def parquet(path, table):
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, path)
    return data("data.name=file", "data.domain=mine", "data.test_ratio=0.5", f"data.path={path}")


def test_bytes_columns_are_text(tmp_path):
    import pyarrow as pa

    rows = [{"question": f"Für {i}?".encode(), "options": [b"x", b"y"], "answer": b"B"} for i in range(8)]
    config = parquet(tmp_path / "q.parquet", pa.Table.from_pylist(rows))
    _, questions = everything(config)
    assert {q.question for q in questions} == {f"Für {i}?" for i in range(8)}
    assert questions[0].options[1].text == "y" and set(load_answer_key(config).values()) == {"B"}
    rows[3]["question"] = b"\xff"
    with pytest.raises(DataError, match=r"q.parquet:row 4: bytes that are not UTF-8"):
        load_splits(parquet(tmp_path / "q.parquet", pa.Table.from_pylist(rows)))


def test_a_map_column_is_a_mapping(tmp_path):
    import pyarrow as pa

    options = pa.array([list(zip("1234", TEXTS))] * 8, pa.map_(pa.string(), pa.string()))
    table = pa.table({"question": [f"Q{i}" for i in range(8)], "options": options, "answer": ["2"] * 8})
    _, questions = everything(parquet(tmp_path / "q.parquet", table))
    assert [(o.label, o.text) for o in questions[0].options] == list(zip("1234", TEXTS))


def test_two_parquet_columns_of_one_name_are_refused(tmp_path):
    import pyarrow as pa

    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["question", "question"])
    with pytest.raises(DataError, match="two columns named question"):
        load_splits(parquet(tmp_path / "q.parquet", table))


@pytest.mark.parametrize("how", ["test_path", "folder"])
def test_a_test_given_apart_is_the_test_and_the_pool_stays_whole(how, tmp_path):
    """It was shuffled into the pool: a leak of the test into training."""
    for name, part in (("train", ROWS), ("test", labelled(question=lambda i: f"Other {i}"))):
        (tmp_path / f"{name}.jsonl").write_text(jsonl(part))
    where = (
        [f"data.path={tmp_path}"]
        if how == "folder"
        else [f"data.path={tmp_path / 'train.jsonl'}", f"data.test_path={tmp_path / 'test.jsonl'}"]
    )
    config = data("data.name=file", "data.domain=mine", *where)
    splits = load_splits(config)
    assert {q.question for q in splits.pool} == {r["question"] for r in ROWS}
    assert {q.question for q in splits.tests["mine"]} == {f"Other {i}" for i in range(8)}
    check_answers(splits.tests["mine"], load_answer_key(config))


HUB = {
    "gsm8k": (["data.config=main"], [{"question": f"Add {i}", "answer": f"So\n#### {i}"} for i in range(6)], "3"),
    "ai2_arc": (["data.config=ARC-Challenge", *ARC], arc(nested(0))[:6], "D"),
    "mmlu": (
        ["data.config=all", "data.options_column=choices"],
        [{"question": f"Q{i}", "subject": "law", "choices": TEXTS, "answer": i % 4} for i in range(6)],
        "D",
    ),
}


@pytest.mark.parametrize("name", HUB)
def test_a_hub_data_set_by_configuration_and_split(name, monkeypatch):
    import datasets

    more, rows, gold = HUB[name]
    calls = []

    def from_hub(path, config, split):
        calls.append((path, config, split))
        return datasets.Dataset.from_list(rows if split != "test" else rows[::-1])

    monkeypatch.setattr(datasets, "load_dataset", from_hub)
    config = data(
        "data.name=file",
        f"data.path=org/{name}",
        "data.domain=mine",
        "data.split=validation",
        "data.test_split=test",
        *more,
    )
    splits = load_splits(config)
    assert calls == [(f"org/{name}", config.config, split) for split in ("validation", "test")]
    assert len(splits.pool) == len(splits.tests["mine"]) == 6
    key = load_answer_key(config)
    check_answers(splits.tests["mine"], key)
    assert key[splits.pool[3].uid] == gold


def test_contradictory_answers_are_reported(tmp_path, caplog):
    """By text: the same options in another order, the same letter."""
    rows = [*ROWS, {**asked(0), "id": "again", "options": TEXTS[::-1], "answer": "A"}]
    load_answer_key(settings(tmp_path, "q.jsonl", jsonl(rows), []))
    assert "1 questions are asked twice with different answers, such as" in caplog.text and "q.jsonl:9" in caplog.text


@pytest.mark.skipif(not CASES.is_dir(), reason=f"{CASES} is not here: its kinds are above, as text")
def test_the_folder_of_cases():
    """Each as its README says."""
    planets = [f"Which planet number {i} is nearest to its star?" for i in range(1, 15)]

    def of(file, *more):
        return data("data.name=file", "data.domain=mine", "data.test_ratio=0.5", f"data.path={CASES / file}", *more)

    columns = ["data.question_column=prompt", "data.option_columns=[A,B,C,D,E]"]
    right = [
        *(
            of(f"01-csv-jsonl-bom/{name}")
            for name in ("answer_first.csv", "bom.jsonl", "id_first.csv", "question_first.csv")
        ),
        of("02-arc-nested-choices/arc.jsonl", *ARC),
        of("02-arc-nested-choices/list_of_dicts.jsonl"),
        of("03-numeric-labels/digits.jsonl"),
        of("03-numeric-labels/lower.jsonl"),
        of("04-label-punctuation/opx.jsonl"),
        of("04-label-punctuation/paren.jsonl"),
        of("05-option-columns/science_exam.csv", *columns),
        of(
            "14-misspelt-column/q.jsonl", "data.id_column=uid", "data.options_column=choices", "data.answer_column=gold"
        ),
    ]
    for config in right:
        splits, questions = everything(config)
        key = load_answer_key(config)
        assert {q.question for q in questions} == set(planets), config.path
        check_answers(splits.tests["mine"], key)
        assert all([o.text for o in q.options][:4] == TEXTS and key[q.uid] for q in questions), config.path
    wrong = {
        "07-nan-null/nan.jsonl": ":4: no text",
        "09-lone-surrogate/surrogate.jsonl": ":3: half a surrogate",
        "10-not-gzip/cut.jsonl.gz": "ends too early",
        "10-not-gzip/plain.jsonl.gz": "is not gzip",
        "11-csv-open-quote/open_quote.csv": ":4: a quote",
        "12-duplicate-header/dup.csv": ":1: two columns named question",
        "12-duplicate-header/dup_keys.jsonl": ":1: the key `question` is given twice",
        "14-misspelt-column/q.jsonl": "choices looks like options",
    }
    for file, words in wrong.items():
        with pytest.raises(DataError, match=words):
            everything(of(file))
