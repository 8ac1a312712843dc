"""GPQA: graduate-level questions (arXiv 2311.12022, CC BY 4.0; gated on the hub), four options; one domain `gpqa`.

The right answer has a column of its own, so the four options are put in an order that depends on data.seed and the
question alone; which of them is right is known to the evaluation alone.
"""

from __future__ import annotations

import random
from pathlib import Path

from nopsd.config import DataConfig
from nopsd.data.records import AnswerKey, Option, Question
from nopsd.data.rows import Row, read_hub, read_rows, text_of
from nopsd.data.splits import Splits, check_unique, split_by_domain
from nopsd.errors import DataError

HUB_ID = "Idavidrein/gpqa"
HUB_CONFIG = "gpqa_main"
DOMAIN = "gpqa"
RIGHT = "Correct Answer"
TEXTS = (RIGHT, "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
LETTERS = "ABCD"


def _rows(config: DataConfig) -> list[Row]:
    path = Path(config.path) if config.path else None
    if path is not None and path.is_dir():
        path = next(iter(sorted(path.glob("gpqa_*"))), path)
    if path is not None and path.exists():
        return read_rows(path)
    return read_hub(config.path or HUB_ID, "train", config=config.config or HUB_CONFIG)


def _uid(row: Row, number: int) -> str:
    return f"gpqa-{row.values.get('Record ID') or number}"


def _order(config: DataConfig, uid: str) -> list[str]:
    """The columns of the options A to D."""
    return random.Random(f"{config.seed}/{uid}").sample(TEXTS, len(TEXTS))


def _question(config: DataConfig, row: Row, number: int) -> Question:
    if missing := [name for name in ("Question", *TEXTS) if not str(row.values.get(name) or "").strip()]:
        raise DataError(f"{row.place}: a GPQA row has {missing[0]!r}; this one has not: check data.path")
    uid = _uid(row, number)
    columns = _order(config, uid)
    options = tuple(Option(letter, str(row.values[name]).strip()) for letter, name in zip(LETTERS, columns))
    return Question(uid, DOMAIN, "gpqa", text_of(row, "Question").strip(), options)


def load_splits(config: DataConfig) -> Splits:
    """Pool and tests, without which option is right; DataError on rows of another form."""
    if config.domain != DOMAIN:
        raise DataError(f"data.domain={config.domain}: data.name=gpqa has one domain, use {DOMAIN}")
    rows = _rows(config)
    questions = [_question(config, row, number) for number, row in enumerate(rows)]
    check_unique(questions, [row.place for row in rows])
    return split_by_domain(questions, DOMAIN, config.test_ratio, config.seed)


def load_answers(config: DataConfig) -> AnswerKey:
    """uid -> the letter under which the right answer stands."""
    uids = [_uid(row, number) for number, row in enumerate(_rows(config))]
    return {uid: LETTERS[_order(config, uid).index(RIGHT)] for uid in uids}
