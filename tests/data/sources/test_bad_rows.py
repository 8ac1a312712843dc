"""Rows of the built-in data sets that aren't as published: refused by line, or their cells would stand in prompts as
`nan`, `None` or Python's brackets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nopsd.data.sources import load_splits
from nopsd.errors import DataError
from tests.data.settings import data

NAN = float("nan")
ROWS: dict[str, dict[str, Any]] = {
    "mmlu_pro": {"question": "Q?", "options": ["a", "b", "N/A"], "answer": "A", "category": "law"},
    "sciknoweval": {
        "question": "Q?",
        "choices": {"text": ["a", "b"], "label": ["A", "B"]},
        "answerKey": "A",
        "type": "mcq-4-choices",
        "domain": "Biology",
        "details": {"level": "L1"},
    },
    "edu_feedback": {"input": "Good.", "label": "With Explanation"},
    "gsm8k": {"question": "Q?", "answer": "So\n#### 1"},
    "svamp": {"Body": "One and one.", "Question": "Q?", "Answer": 2},
    "instructions": {"instruction": "Do.", "input": "", "output": "Done."},
}
IDS = {"mmlu_pro": "question_id", "edu_feedback": "id", "svamp": "ID"}
DOMAINS = {"sciknoweval": "Biology"}


def load(name: str, path: Path, **columns: Any) -> Any:
    rows: list[dict[str, Any]] = [
        {IDS.get(name, "number"): f"chal-{i}" if name == "svamp" else i, **ROWS[name]} for i in range(1, 11)
    ]
    rows[2] |= columns
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_splits(data(f"data.name={name}", f"data.path={path}", f"data.domain={DOMAINS.get(name, name)}"))


@pytest.mark.parametrize("name", ROWS)
def test_rows_as_published_are_read(name: str, tmp_path: Path) -> None:
    splits = load(name, tmp_path / "q.jsonl")
    assert len(splits.pool) + len(splits.held) + sum(map(len, splits.tests.values())) == 10


@pytest.mark.parametrize(
    ("name", "columns", "words"),
    [
        ("mmlu_pro", {"options": "abc"}, "`options`"),
        ("mmlu_pro", {"options": ["x"] * 11}, "1 to 10 texts"),
        ("mmlu_pro", {"options": [{"a": 1}, "b"]}, "an option holds a dict"),
        ("mmlu_pro", {"options": [NAN, "b"]}, "an option holds nothing"),
        ("mmlu_pro", {"options": ["N/A", "N/A"]}, "all of its options are N/A"),
        ("mmlu_pro", {"question": NAN}, "has no text"),
        ("sciknoweval", {"choices": ["a", "b"]}, "`choices` holds a list"),
        ("sciknoweval", {"choices": {"text": ["a", None], "label": ["A", "B"]}}, "an option holds nothing"),
        ("sciknoweval", {"choices": {"text": ["a", "b"], "label": ["A", "A"]}}, "can't distinguish"),
        ("sciknoweval", {"domain": 7}, "not a SciKnowEval row"),
        ("sciknoweval", {"details": "L1"}, "not a SciKnowEval row"),
        ("sciknoweval", {"question": NAN}, "has no text"),
        ("edu_feedback", {"input": ["Good."]}, "column `input` holds a list"),
        ("edu_feedback", {"input": NAN}, "has no text"),
        ("gsm8k", {"question": {"text": "Q?"}}, "column `question` holds a dict"),
        ("svamp", {"Body": ["One"]}, "column `Body` holds a list"),
        ("instructions", {"input": {"a": 1}}, "column `input` holds a dict"),
    ],
)
def test_a_row_of_another_form_is_refused_by_line(
    name: str, columns: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"q.jsonl:3: .*({words})"):
        load(name, tmp_path / "q.jsonl", **columns)
