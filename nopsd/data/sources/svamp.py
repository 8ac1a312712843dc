"""SVAMP: word problems whose answer is a number (arXiv 2103.07191, MIT); one domain `svamp`.

The hub's two splits are one list of problems here, in the order of their numbers, as the authors' own file has them:
pool and test are the same questions wherever the rows come from.
"""

from __future__ import annotations

from pathlib import Path

from nopsd.config import DataConfig
from nopsd.data.gold import Given, answer_key
from nopsd.data.records import AnswerKey, Question
from nopsd.data.rows import Row, read_hub, read_rows, text_of
from nopsd.data.splits import Splits, check_unique, split_by_domain
from nopsd.errors import DataError

HUB_ID = "ChilleD/SVAMP"
HUB_SPLITS = ("train", "test")
DOMAIN = "svamp"
ANSWER_COLUMNS = ("Answer", "Equation", "Type")  # the operation tells most of the answer


def _rows(config: DataConfig, drop: tuple[str, ...]) -> list[Row]:
    """In the order of the problems' numbers."""
    path = Path(config.path) if config.path else None
    if path is not None and path.is_dir():
        path = next(iter(sorted(path.glob("svamp*"))), path)
    if path is not None and path.exists():
        rows = read_rows(path, drop)
    else:
        rows = [row for split in HUB_SPLITS for row in read_hub(config.path or HUB_ID, split, drop)]
    return sorted(rows, key=_number)


def _number(row: Row) -> int:
    """Of `chal-17`: 17."""
    number = str(row.values.get("ID", "")).rpartition("-")[2]
    if not number.isdecimal():
        raise DataError(f"{row.place}: a row of SVAMP has an `ID` such as chal-1, a `Body` and a `Question`")
    return int(number)


def _question(row: Row) -> Question:
    body, asked = (text_of(row, name).strip() for name in ("Body", "Question"))
    between = " " if body.endswith((".", "!", "?", ",")) else ", "
    return Question(
        uid=f"svamp-{_number(row)}",
        domain=DOMAIN,
        source="svamp",
        question=f"{body}{between}{asked}" if body and asked else body or asked,
    )


def load_splits(config: DataConfig) -> Splits:
    """Pool and tests, without answers; DataError on rows of another form."""
    if config.domain != DOMAIN:
        raise DataError(f"data.domain={config.domain}: data.name=svamp has one domain, use {DOMAIN}")
    rows = _rows(config, drop=ANSWER_COLUMNS)
    questions = [_question(row) for row in rows]
    check_unique(questions, [row.place for row in rows])
    return split_by_domain(questions, DOMAIN, config.test_ratio, config.seed)


def load_answers(config: DataConfig) -> AnswerKey:
    """uid -> gold answer, a number."""
    return answer_key([Given(row.place, _question(row), _value(row), {}) for row in _rows(config, drop=())])


def _value(row: Row) -> object:
    """The answer as a number where it is one: the hub has 145.00 as text."""
    value = row.values.get("Answer")
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
