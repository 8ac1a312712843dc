"""GSM8K: school mathematics in words, the answer a number behind `####` (arXiv 2110.14168, MIT); one domain `gsm8k`.

The pool is of the published training rows and the test of the published test rows. From one local file alone a part is
split off for the test.
"""

from __future__ import annotations

from pathlib import Path

from nopsd.config import DataConfig
from nopsd.data.gold import Given, answer_key
from nopsd.data.records import AnswerKey, Question
from nopsd.data.rows import Row, read_hub, read_rows, text_of
from nopsd.data.splits import Splits, check_unique, split_by_domain
from nopsd.errors import DataError

HUB_ID = "openai/gsm8k"
HUB_CONFIG = "main"
DOMAIN = "gsm8k"
SPLITS = ("train", "test")


def _rows(config: DataConfig, drop: tuple[str, ...]) -> dict[str, list[Row]]:
    """Rows by split; `test` is missing where there is one file alone."""
    path = Path(config.path) if config.path else None
    if path is None or not path.exists():
        return {split: read_hub(config.path or HUB_ID, split, drop, HUB_CONFIG) for split in SPLITS}
    if path.is_file():
        return {"train": read_rows(path, drop)}
    files = {split: sorted(path.glob(f"gsm8k_{split}*")) for split in SPLITS}
    if missing := [split for split, found in files.items() if not found]:
        raise DataError(f"{path}: no file gsm8k_{missing[0]}* in this folder; set data.path to the file itself")
    return {split: read_rows(found[0], drop) for split, found in files.items()}


def _questions(rows: dict[str, list[Row]]) -> dict[str, list[Question]]:
    return {
        split: [
            Question(f"gsm8k-{split}-{number}", DOMAIN, "gsm8k", text_of(row, "question"))
            for number, row in enumerate(found)
        ]
        for split, found in rows.items()
    }


def load_splits(config: DataConfig) -> Splits:
    """Pool and tests, without answers; DataError on rows of another form."""
    if config.domain != DOMAIN:
        raise DataError(f"data.domain={config.domain}: data.name=gsm8k has one domain, use {DOMAIN}")
    rows = _rows(config, drop=("answer",))
    questions = _questions(rows)
    places = [row.place for found in rows.values() for row in found]
    check_unique([question for found in questions.values() for question in found], places)
    if "test" in questions:
        return Splits(questions["train"], {DOMAIN: questions["test"]})
    return split_by_domain(questions["train"], DOMAIN, config.test_ratio, config.seed)


def load_answers(config: DataConfig) -> AnswerKey:
    """uid -> gold answer, a number."""
    rows = _rows(config, drop=())
    questions = _questions(rows)
    given = [
        Given(row.place, question, _value(row), {})
        for split, found in rows.items()
        for row, question in zip(found, questions[split], strict=True)
    ]
    return answer_key(given)


def _value(row: Row) -> object:
    """The worked solution, without the thousands' commas of its result."""
    worked, mark, result = str(row.values.get("answer") or "").rpartition("####")
    return f"{worked}{mark}{result.replace(',', '')}" if mark else row.values.get("answer")
