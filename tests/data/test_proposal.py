"""What `nopsd init` takes the columns of a file for: a wrong guess runs on the wrong text or against wrong answers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from nopsd.config import DataConfig
from nopsd.data.proposal import propose
from nopsd.data.rows import read_rows
from nopsd.data.sources import load_answer_key, load_splits
from nopsd.errors import DataError

TEXTS = [f"Which of these is number {i}?" for i in range(40)]


def loaded(path: Path, rows: list[dict[str, Any]]) -> tuple[Any, dict[str, str], DataConfig]:
    """The questions and answers of a file as proposed for it."""
    config = DataConfig(**{**propose(rows, "mine").settings, "path": str(path), "test_ratio": 0.25})
    splits = load_splits(config)
    return [*splits.pool, *splits.tests.get(config.domain, [])], load_answer_key(config), config


def shape(kind: str) -> list[dict[str, Any]]:
    """Rows as other data sets have them; option B, `b0`, is right everywhere."""
    options = [["a0", "b0", "c0"] for _ in TEXTS]
    rows: dict[str, list[dict[str, Any]]] = {
        "letters": [{"question": t, "options": o, "answer": "B"} for t, o in zip(TEXTS, options)],
        "from 0": [{"question": t, "choices": o, "answer": 1} for t, o in zip(TEXTS, options)],
        "from 1": [{"query": t, "choices": o, "label": "2"} for t, o in zip(TEXTS, options)],
        "text": [{"Problem": t, "options": o, "correct": "b0"} for t, o in zip(TEXTS, options)],
        "mapping": [{"question": t, "options": dict(zip("ABC", o)), "gold": "B"} for t, o in zip(TEXTS, options)],
        "labelled": [
            {"question": t, "choices": {"text": o, "label": ["1", "2", "3"]}, "answerKey": "2"}
            for t, o in zip(TEXTS, options)
        ],
        "columns": [
            {"Prompt": t, "A": o[0], "B": o[1], "C": o[2], "Correct Answer": "B"} for t, o in zip(TEXTS, options)
        ],
        "two solutions": [
            {"goal": t, "sol1": o[0], "sol2": o[1], "sol3": o[2], "label": 1} for t, o in zip(TEXTS, options)
        ],
        "named columns": [
            {"id": i, "question": t, "option_1": o[0], "option_2": o[1], "option_3": o[2], "answer": "2"}
            for i, (t, o) in enumerate(zip(TEXTS, options))
        ],
    }
    if kind == "from 0":
        rows[kind][0]["answer"] = 0
    if kind == "two solutions":
        rows[kind][0]["label"] = 0
    if kind == "from 1":
        rows[kind][0]["label"] = "3"
    return rows[kind]


@pytest.mark.parametrize(
    "kind", ["letters", "from 0", "from 1", "text", "mapping", "labelled", "columns", "named columns", "two solutions"]
)
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_options_of_every_shape_get_their_right_letter(kind: str, suffix: str, tmp_path: Path) -> None:
    rows, path = shape(kind), tmp_path / f"q.{suffix}"
    if suffix == "csv":
        cells = [{k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()} for row in rows]
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, cells[0])
            writer.writeheader()
            writer.writerows(cells)
    else:
        lines = "\n".join(map(json.dumps, rows)) if suffix == "jsonl" else json.dumps(rows)
        path.write_text(lines)
    questions, key, _ = loaded(path, [row.values for row in read_rows(path)])
    assert sorted(q.question for q in questions) == sorted(TEXTS)
    for question in questions:
        texts = {option.label: option.text for option in question.options}
        assert list(texts.values()) == ["a0", "b0", "c0"]
        other = (
            {"from 0": "a0", "two solutions": "a0", "from 1": "c0"}.get(kind, "b0")
            if question.question == TEXTS[0]
            else "b0"
        )
        assert texts[key[question.uid]] == other


@pytest.mark.parametrize(
    "names",
    [
        ("Nr", "Frage", "Choices", "Solution"),
        ("编号", "题目", "选项", "答案"),
        ("n", "what is asked", "offered", "key"),
    ],
)
def test_options_longer_than_the_question_are_not_taken_for_it(names: tuple[str, ...]) -> None:
    """A file with headers of another language would be asked about its options."""
    number, question, options, answer = names
    long = json.dumps(["an option that goes on and on", "another one that does", "a third"])
    rows = [{number: i, question: t, options: long, answer: "B"} for i, t in enumerate(TEXTS)]
    settings = propose(rows, "mine").settings
    assert (settings["question_column"], settings["options_column"]) == (question, options)
    assert settings["answer_column"] == answer


def test_a_chat_of_one_turn_is_the_question_and_what_stands_beside_it_the_answer(tmp_path: Path) -> None:
    """Files made for reinforcement learning: the answer was asked as the question."""
    rows = [{"prompt": [{"role": "user", "content": t}], "ground_truth": f"{i}"} for i, t in enumerate(TEXTS)]
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    questions, key, _ = loaded(path, rows)
    assert {question.question: key[question.uid] for question in questions} == {t: f"{i}" for i, t in enumerate(TEXTS)}


def test_of_a_worked_solution_the_last_box_is_the_answer(tmp_path: Path) -> None:
    """MATH's form: no model would repeat the whole solution."""
    rows = [
        {"problem": t, "solution": f"First \\boxed{{0}}, so $\\boxed{{\\frac{{1}}{{{i}}}}}$."}
        for i, t in enumerate(TEXTS)
    ]
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    questions, key, _ = loaded(path, rows)
    assert {key[question.uid] for question in questions} == {f"\\frac{{1}}{{{i}}}" for i in range(len(TEXTS))}


def test_an_instruction_stands_before_its_input() -> None:
    """The task would be missing from the question."""
    settings = propose([{"instruction": "Translate.", "input": t, "output": "x"} for t in TEXTS], "mine").settings
    assert (settings["context_column"], settings["question_column"]) == ("instruction", "input")


@pytest.mark.parametrize("column", ["answer", "reward_model"])
def test_an_answer_inside_a_mapping_is_named(column: str) -> None:
    """It was an error at the first row, or nothing."""
    found = propose([{"question": t, column: {"ground_truth": "x", "style": "rule"}} for t in TEXTS], "mine")
    assert found.settings.get("answer_column") is None
    assert any(f"inside a mapping isn't read (column {column})" in warning for warning in found.warnings)


def test_a_list_that_no_answer_comes_from_is_not_taken_for_options() -> None:
    """A column of tags would be shown as the options of its question."""
    rows = [{"question": t, "tags": ["old", "hard"], "answer": "blue"} for t in TEXTS]
    assert propose(rows, "mine").settings["options_column"] is None


def test_classes_become_choices_of_every_question(tmp_path: Path) -> None:
    """Else a model is asked for labels that it has never seen."""
    rows = [{"text": f"comment {i}", "label": "spam" if i % 3 else "not spam"} for i in range(30)]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    questions, key, config = loaded(tmp_path / "q.jsonl", rows)
    assert [o.label for o in questions[0].options] == ["not spam", "spam"]
    assert questions[0].question.startswith(f"{config.instruction}\n\ncomment ")
    assert set(key.values()) == {"spam", "not spam"}


def test_a_context_column_comes_before_the_question(shared_data: Path) -> None:
    """Of SVAMP's file without a column that gives it away."""
    path = shared_data / "svamp.json.gz"
    rows = [{name: value for name, value in row.values.items() if name != "Type"} for row in read_rows(path)]
    questions, key, config = loaded(path, rows)
    question = next(q for q in questions if q.uid == "chal-1")
    assert question.question.startswith("Each pack of dvds") and question.question.endswith("buy each pack?")
    assert key["chal-1"] == "51", "the file has 51.0, which no response says"


def test_worked_solutions_are_judged_by_what_follows_the_mark(shared_data: Path) -> None:
    path = shared_data / "gsm8k_test.jsonl.gz"
    _, key, config = loaded(path, [row.values for row in read_rows(path)])
    assert config.id_column == "id" and key["row-1"] == "18"


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("mmlu_pro_test.jsonl.gz", "mmlu_pro"),
        ("edu_feedback_pool.jsonl.gz", "edu_feedback"),
        ("sciknoweval_physics_mcq4.jsonl.gz", "Physics"),
        ("svamp.json.gz", "svamp"),
    ],
)
def test_known_data_sets_are_recognised(shared_data: Path, name: str, domain: str) -> None:
    """Their own modules know more of them than columns say."""
    path = shared_data / name
    questions, key, config = loaded(path, [row.values for row in read_rows(path)])
    assert config.name != "file" and config.domain == domain and len(questions) >= 700 and key


def test_what_a_user_should_know_is_said() -> None:
    assert "set data.answer_column" in " ".join(propose([{"question": t} for t in TEXTS], "mine").warnings)
    long = [
        {"question": t, "answer": f"because {t} is what it is and not something else, as far as known"} for t in TEXTS
    ]
    assert "word by word" in " ".join(propose(long, "mine").warnings)
    with pytest.raises(DataError, match="no column holds text"):
        propose([{"a": 1, "b": 2}], "mine")


def test_a_domain_column_decides_the_domain() -> None:
    """It is read without being asked for, so that a file name as the domain would leave the pool empty."""
    rows = [{"question": t, "domain": "law" if i % 3 else "art"} for i, t in enumerate(TEXTS)]
    assert propose(rows, "mine").settings["domain"] == "law"


@pytest.mark.parametrize(
    ("answers", "numbers"),
    [
        (["7", "-3.5", "1,200", "12", "0", "5", "6", "8", "9", "10", "11"], True),
        (["7", "seven", "1,200", "12", "0", "5", "6", "8", "9", "10", "11"], False),
        ([f"step {i}\n#### {i}" for i in range(11)], True),
        ([f"step {i}\n#### red {i}" for i in range(11)], False),
    ],
)
def test_answers_that_are_all_numbers_are_known(answers: list[str], numbers: bool) -> None:
    """Breaks if 7.0 is wrong where 7 is right, or words are asked for as numbers."""
    rows = [{"question": f"what is {i} of them all?", "answer": answer} for i, answer in enumerate(answers)]
    assert propose(rows, "mine").numbers is numbers
