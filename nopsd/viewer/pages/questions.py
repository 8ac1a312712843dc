"""Questions: the pool by score, length and vote share, and one question with all that happened to it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nopsd.data.majority import majority
from nopsd.data.records import Question
from nopsd.data.wording import question_text
from nopsd.errors import UserError
from nopsd.viewer.query import Query, Window
from nopsd.viewer.source import Said, Source

SORTS = {
    "": "in the pool's order",
    "score": "lowest s(x) first",
    "high": "highest s(x) first",
    "length": "longest answers first",
    "share": "lowest vote share first",
}
MOST_READ = 20_000  # questions whose answers are all read for an order by vote share


@dataclass(frozen=True)
class Row:
    """A question of the pool as the table shows it."""

    question: Question
    score: float | None
    selected: bool
    length: int | None
    share: float | None  # of the most frequent zero-shot answer; None with one response a question
    answer: str | None
    right: float | None  # share of right zero-shot answers, where an evaluation knows


def table(source: Source, query: Query) -> dict[str, Any]:
    """The pool's questions that pass the filters."""
    pool, scores, lengths = source.pool, source.scores, source.lengths()
    uids = [uid for uid in pool if _passes(source, uid, query)]
    sort = query.text("sort")
    if sort in ("score", "high"):
        sign = 1 if sort == "score" else -1
        uids.sort(
            key=lambda uid: sign * value if (value := scores.get(uid, (None, False))[0]) is not None else math.inf
        )
    elif sort == "length":
        uids.sort(key=lambda uid: -lengths.get(uid, 0))
    elif sort == "share":
        if len(uids) > MOST_READ:
            raise UserError(f"{len(uids):,} questions are too many to order by vote share: filter them first")
        shares = {uid: vote(source, pool[uid], said)[1] for uid, said in _said(source, uids).items()}
        uids.sort(key=lambda uid: math.inf if (share := shares[uid]) is None else share)
    window = Window.of(query, len(uids))
    shown = uids[window.first : window.last]
    said = _said(source, shown)
    rows = [row_of(source, pool[uid], lengths, said[uid]) for uid in shown]
    return {
        "rows": rows,
        "window": window,
        "sorts": SORTS,
        "chosen": sum(kept for _, kept in scores.values()),
        "pool": len(pool),
    }


def _passes(source: Source, uid: str, query: Query) -> bool:
    wanted = query.text("selected")
    if wanted and (wanted == "yes") != source.scores.get(uid, (None, False))[1]:
        return False
    looked_for = query.text("q").lower()
    return not looked_for or looked_for in uid.lower() or looked_for in source.pool[uid].question.lower()


def _said(source: Source, uids: Iterable[str]) -> dict[str, list[Said]]:
    rows = source.answers(uids).items()
    return {uid: [Said(row["text"], row["finish_reason"]) for row in found] for uid, found in rows}


def vote(source: Source, question: Question, said: Sequence[Said]) -> tuple[str | None, float | None]:
    """The most frequent answer and its share; no share with one response."""
    answer, count = majority(source.reader.answers(said, question))
    return answer, count / len(said) if len(said) > 1 else None


def row_of(source: Source, question: Question, lengths: Mapping[str, int], said: Sequence[Said]) -> Row:
    """One row of the table."""
    score, selected = source.scores.get(question.uid, (None, False))
    answer, share = vote(source, question, said)
    right = source.pool_correct.get(question.uid)
    return Row(question, score, selected, lengths.get(question.uid), share, answer, right)


def one(source: Source, query: Query) -> dict[str, Any]:
    """A question of the pool or of the tests. UserError if there is none of that uid."""
    uid = query.text("uid")
    question = source.pool.get(uid) or source.tests.get(uid)
    if question is None:
        raise UserError(f"there is no question {uid!r} in this run")
    near = source.contexts.get(uid, [])
    asked = source.answers([uid, *(n.uid for n in near)])
    return {
        "question": question,
        "text": question_text(question),
        "row": row_of(
            source, question, source.lengths(), [Said(row["text"], row["finish_reason"]) for row in asked[uid]]
        )
        if uid in source.pool
        else None,
        "answers": asked[uid],
        "neighbours": [(n, source.pool.get(n.uid), _sample(asked[n.uid], n.sample)) for n in near],
        "shown_for": [other for other, found in source.contexts.items() if any(n.uid == uid for n in found)][:50],
        "judged": {model: source.judged(model, question.domain).get(uid) for model in ("base", "final")},
        "steps": steps_of(source, uid),
    }


def _sample(rows: Sequence[Mapping[str, Any]], sample: int) -> str | None:
    return next((row["text"] for row in rows if row["sample"] == sample), None)


def steps_of(source: Source, uid: str) -> list[int]:
    """Traced steps that trained on the question: which ones do is a function of the settings."""
    from nopsd.train.batches import batch_uids
    from nopsd.train.planning import retained_of

    if not source.scores.get(uid, (None, False))[1]:
        return []
    selected, train = [name for name, (_, kept) in source.scores.items() if kept], source.config.train
    own = train.batch - retained_of(train.batch, train.retain.share)
    return [step for step in source.trace.steps if uid in batch_uids(selected, step, own, train.seed)][:100]
