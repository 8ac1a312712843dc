"""SciKnowEval v2: `type` in data.types, all levels by default, 90/10 by domain."""

from __future__ import annotations

from pathlib import Path

from nopsd.config import DataConfig
from nopsd.data.options import as_text, check_options
from nopsd.data.records import AnswerKey, Option, Question
from nopsd.data.rows import Row, read_hub, read_rows, text_of
from nopsd.data.splits import Splits, check_unique, split_by_domain
from nopsd.errors import DataError

HUB_ID = "hicai-zju/SciKnowEval"
ANSWER_COLUMNS = ("answerKey", "answer")


def _rows(config: DataConfig, drop: tuple[str, ...]) -> list[tuple[str, Row]]:
    """(uid, row) of the chosen types and levels; uids number each domain's rows in file order."""
    path = Path(config.path) if config.path else None
    if path is not None and path.is_dir():  # a folder may hold other data sets' files beside
        files = sorted(path.glob("sciknoweval*"))
        if not files:
            raise DataError(f"{path}: no file sciknoweval* in this folder; set data.path to the file itself")
        rows = [row for file in files for row in read_rows(file, drop)]
    else:
        local = path is not None and path.exists()
        rows = read_rows(path, drop) if path and local else read_hub(config.path or HUB_ID, "test", drop)
    counts: dict[str, int] = {}
    chosen = []
    for row in rows:
        domain = row.values.get("domain")
        if not isinstance(domain, str) or not domain or not isinstance(row.values.get("details") or {}, dict):
            raise DataError(f"{row.place}: no `domain`, or `details` of another form: this is not a SciKnowEval row")
        number = counts[domain] = counts.get(domain, -1) + 1
        level = (row.values.get("details") or {}).get("level")
        if row.values.get("type") in config.types and (not config.levels or level in config.levels):
            chosen.append((f"sciknoweval-{domain.lower()}-{number}", row))
    return chosen


def _question(uid: str, row: Row) -> Question:
    values = row.values
    choices = values.get("choices") or {}
    if not isinstance(choices, dict):
        raise DataError(
            f"{row.place}: `choices` holds a {type(choices).__name__}: {{text: [...], label: [...]}} is needed"
        )
    texts, labels = (list(choices.get(name) or ()) for name in ("text", "label"))
    if min(len(texts), len(labels)) < 2:
        raise DataError(f"{row.place}: {len(texts)} option texts for {len(labels)} labels; at least two are needed")
    # 20 of the hub's 18,470 rows have more texts than labels, or fewer: the labelled ones are the options.
    place = row.place
    options = [Option(as_text(place, label), as_text(place, text)) for label, text in zip(labels, texts, strict=False)]
    details = values.get("details") or {}
    return Question(
        uid=uid,
        domain=values["domain"],
        source="sciknoweval",
        question=text_of(row, "question"),
        options=check_options(place, options),
        level=details.get("level"),
        category=details.get("subtask"),
    )


def load_splits(config: DataConfig) -> Splits:
    """Pool and tests, without answers; DataError on rows of another form."""
    rows = _rows(config, drop=ANSWER_COLUMNS)
    questions = [_question(uid, row) for uid, row in rows]
    check_unique(questions, [row.place for _, row in rows])
    return split_by_domain(questions, config.domain, config.test_ratio, config.seed)


def load_answers(config: DataConfig) -> AnswerKey:
    """uid -> gold answer."""
    return {uid: row.values["answerKey"] for uid, row in _rows(config, drop=()) if row.values.get("answerKey")}
