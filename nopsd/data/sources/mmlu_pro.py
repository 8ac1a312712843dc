"""MMLU-Pro: the `test` rows, options "N/A" dropped, one domain `mmlu_pro`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nopsd.config import DataConfig
from nopsd.data.options import as_text, check_options
from nopsd.data.records import AnswerKey, Option, Question
from nopsd.data.rows import Row, read_hub, read_rows, text_of
from nopsd.data.splits import Splits, check_unique, split_by_domain
from nopsd.errors import DataError

HUB_ID = "TIGER-Lab/MMLU-Pro"
DOMAIN = "mmlu_pro"
LETTERS = "ABCDEFGHIJ"
ANSWER_COLUMNS = ("answer", "answer_index", "cot_content")


def _rows(config: DataConfig, drop: tuple[str, ...]) -> list[Row]:
    path = Path(config.path) if config.path else None
    if path is not None and path.is_dir():
        path = next(iter(sorted(path.glob("mmlu_pro_test*"))), path)
    if path is not None and path.exists():
        return read_rows(path, drop)
    return read_hub(config.path or HUB_ID, "test", drop)


def _question(row: Row) -> Question:
    values = row.values
    texts = values.get("options")
    if "question_id" not in values or not isinstance(texts, list) or not 0 < len(texts) <= len(LETTERS):
        raise DataError(
            f"{row.place}: an MMLU-Pro row has `question_id` and `options` (1 to 10 texts); this one has not"
        )
    # Letters stay those of the full list, so that the gold letter keeps its meaning.
    options = [Option(LETTERS[i], as_text(row.place, t)) for i, t in enumerate(texts) if t != "N/A"]
    if not options:
        raise DataError(f"{row.place}: all of its options are N/A: remove the row")
    return Question(
        uid=f"mmlu_pro-{values['question_id']}",
        domain=DOMAIN,
        source="mmlu_pro",
        question=text_of(row, "question"),
        options=check_options(row.place, options, fewest=1),  # 5 of the hub's rows have one
        category=values.get("category"),
    )


def load_splits(config: DataConfig) -> Splits:
    """Pool and tests, without answers; DataError on rows of another form."""
    rows = _rows(config, drop=ANSWER_COLUMNS)
    questions = [_question(row) for row in rows]
    check_unique(questions, [row.place for row in rows])
    if config.domain not in (DOMAIN, *{q.category for q in questions}):
        raise DataError(f"data.domain={config.domain}: use {DOMAIN}, or one of MMLU-Pro's categories")
    if config.domain != DOMAIN:
        questions = [replace(q, domain=config.domain) for q in questions if q.category == config.domain]
    return split_by_domain(questions, config.domain, config.test_ratio, config.seed)


def load_answers(config: DataConfig) -> AnswerKey:
    """uid -> gold answer."""
    return {f"mmlu_pro-{r.values['question_id']}": r.values["answer"] for r in _rows(config, drop=())}
