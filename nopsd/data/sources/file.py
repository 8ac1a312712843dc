"""A user's own questions: JSONL, CSV, parquet or a hub data set, with columns of the user's names.

Without an answer column every question goes into the pool and there is nothing to evaluate on. With one, the test is
the file, or the hub's split, that is given apart (`data.test_path`, `data.test_split`, or a folder's files train* and
test*), else split off by domain (`data.test_ratio`); only evaluation reads the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nopsd.config import DataConfig
from nopsd.data.columns import check_columns, question_of
from nopsd.data.gold import Given, answer_key
from nopsd.data.options import labels_of_columns
from nopsd.data.raw_rows import read_raw_rows
from nopsd.data.records import AnswerKey, Question
from nopsd.data.rows import Row, blank, files_of, read_file, read_hub, read_rows
from nopsd.data.splits import Splits, check_unique, split_by_domain
from nopsd.errors import DataError


@dataclass(frozen=True)
class _Rows:
    """Rows, and those of a test that is given apart (None: there is none)."""

    pool: list[Row]
    test: list[Row] | None = None


def _rows(config: DataConfig, drop: tuple[str, ...] = ()) -> _Rows:
    if not config.path:
        raise DataError(
            "data.name=file needs data.path: a .jsonl, .csv or .parquet file, a folder of them, or a hub id"
        )
    path = Path(config.path)
    if is_hub_id(config.path):
        pool = read_hub(config.path, config.split, drop, config.config)
        test = read_hub(config.path, config.test_split, drop, config.config) if config.test_split else None
        return _Rows(pool, _given_apart(config, drop) or test)
    for key, value in (("config", config.config), ("test_split", config.test_split)):
        if value:
            raise DataError(
                f"data.{key}={value} is of hub data sets, and data.path={config.path} is here: leave it out"
            )
    test_files = [file for file in files_of(path) if path.is_dir() and file.name.lower().startswith("test")]
    train_files = [file for file in files_of(path) if path.is_dir() and file.name.lower().startswith("train")]
    if config.test_path or not (train_files and test_files):
        return _Rows(read_rows(path, drop), _given_apart(config, drop))
    return _Rows(_of_files(train_files, drop), _of_files(test_files, drop))


def is_hub_id(path: str) -> bool:
    """owner/name, and nothing here of that name."""
    return not Path(path).exists() and path.count("/") == 1 and not Path(path).suffix


def _given_apart(config: DataConfig, drop: tuple[str, ...]) -> list[Row] | None:
    return read_rows(Path(config.test_path), drop) if config.test_path else None


def _of_files(files: Sequence[Path], drop: tuple[str, ...]) -> list[Row]:
    return [row for file in files for row in read_file(file, drop)]


def _uid(config: DataConfig, number: int, row: Row, test: bool = False) -> str:
    """A test's own ids may be those of the pool: they are kept apart."""
    given = row.values.get(config.id_column)
    return ("test-" if test else "") + (f"row-{number}" if blank(given) else str(given))


def _questions(config: DataConfig, rows: Sequence[Row], test: bool = False) -> list[Question]:
    return [question_of(config, _uid(config, number, row, test), row) for number, row in enumerate(rows, 1)]


def load_splits(config: DataConfig) -> Splits:
    """Pool and tests, without answers; DataError on rows of another form."""
    rows = _rows(config, drop=(config.answer_column,))
    everything = [*rows.pool, *(rows.test or [])]
    check_columns(config, everything)
    questions, tests = _questions(config, rows.pool), _questions(config, rows.test or [], test=True)
    check_unique([*questions, *tests], [row.place for row in everything])
    if not questions:
        return Splits([], {})
    if rows.test is not None:
        by_domain: dict[str, list[Question]] = {}
        for question in tests:
            by_domain.setdefault(question.domain, []).append(question)
        return Splits([q for q in questions if q.domain == config.domain], by_domain)
    if not any(row.dropped for row in rows.pool):  # nobody has an answer
        pool = [q for q in questions if q.domain == config.domain]
        return Splits(pool, {})
    return split_by_domain(questions, config.domain, config.test_ratio, config.seed)


def load_answers(config: DataConfig) -> AnswerKey:
    """uid -> gold answer."""
    rows = _rows(config)
    given = [
        Given(row.place, question, row.values.get(config.answer_column), _names(config, question))
        for part, test in ((rows.pool, False), (rows.test or [], True))
        for row, question in zip(part, _questions(config, part, test), strict=True)
    ]
    return answer_key(given, config.first_index)


def _names(config: DataConfig, question: Question) -> dict[str, str | None]:
    """Option column -> label, None where the row has no such option."""
    labels = {option.label for option in question.options}
    return {
        name: label if label in labels else None for name, label in labels_of_columns(config.option_columns).items()
    }


def load_lines(config: DataConfig) -> dict[str, str]:
    """uid -> the row as it stands in the file, in file order."""
    rows = read_raw_rows(config.path or "", config.split, config.config)
    return {_uid(config, n, row): row.line for n, row in enumerate(rows, 1)}
