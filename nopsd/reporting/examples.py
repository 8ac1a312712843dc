"""Examples of the report: questions whose answers show what training did, with both models' responses as text.

In: the questions, both models' rows (judged or not) and responses. Out: `Example`s, a few of each kind; the kinds that
need labels are left out where there are none. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nopsd.data.records import Question
from nopsd.evaluation.results import QuestionRow
from nopsd.evaluation.unlabelled import Answered
from nopsd.reporting.unlabelled import answer_text, clipped

EACH = 2  # of a kind
LONGEST = 1500  # characters of a question or response
KINDS = {
    "fixed": "Went right",
    "broken": "Went wrong",
    "changed": "Changed most",
    "longest": "Longest response",
    "unparsed": "No answer that can be read",
}


@dataclass(frozen=True)
class Example:
    """One question. Answers are escaped markdown, `asked`, `before` and `after` plain text."""

    kind: str  # of KINDS
    uid: str
    asked: str
    gold: str | None
    answers: tuple[str, str]  # majority answers with their share of the votes, before and after
    before: str
    after: str


@dataclass(frozen=True)
class Answers:
    """Both models on the same questions: rows in one order, and each question's responses by uid."""

    before: Sequence[Answered]
    after: Sequence[Answered]
    texts_before: Mapping[str, Sequence[str]]
    texts_after: Mapping[str, Sequence[str]]


def examples(questions: Mapping[str, Question], found: Answers, each: int = EACH) -> list[Example]:
    """At most `each` of every kind; a question is shown once."""
    shown: set[str] = set()
    shown_examples = []
    pairs = list(zip(found.before, found.after, strict=True))
    for kind, rank in _RANKS.items():
        ranked = sorted(
            ((value, i) for i, pair in enumerate(pairs) if (value := rank(*pair)) is not None), reverse=True
        )
        for _, i in [(v, i) for v, i in ranked if pairs[i][0].uid not in shown][:each]:
            shown.add(pairs[i][0].uid)
            shown_examples.append(_example(kind, questions[pairs[i][0].uid], *pairs[i], found))
    return shown_examples


def _judged(row: Answered) -> bool | None:
    return row.majority == row.gold if isinstance(row, QuestionRow) else None


def _moved(before: Answered, after: Answered, was: bool) -> float | None:
    right = _judged(before), _judged(after)
    return before.share + after.share if right == (was, not was) else None


def _unread(after: Answered) -> float | None:
    count = sum(answer is None for answer in after.answers)
    return count / len(after.answers) if count else None


# How strongly a question is an example of a kind; None: it is none.
_RANKS: dict[str, Callable[[Answered, Answered], float | None]] = {
    "fixed": lambda before, after: _moved(before, after, was=False),
    "broken": lambda before, after: _moved(before, after, was=True),
    "changed": lambda before, after: before.share + after.share if before.majority != after.majority else None,
    "unparsed": lambda before, after: _unread(after),
    "longest": lambda before, after: float(max(after.lengths)),
}


def _example(kind: str, question: Question, before: Answered, after: Answered, found: Answers) -> Example:
    options = "\n".join(f"{o.label}: {o.text}" if o.text != o.label else o.label for o in question.options)
    votes = tuple(f"{answer_text(question, row.majority)} ({row.share:.0%} of the votes)" for row in (before, after))
    return Example(
        kind=kind,
        uid=question.uid,
        asked=clipped(f"{question.question}\n{options}".strip(), LONGEST),
        gold=answer_text(question, after.gold) if isinstance(after, QuestionRow) else None,
        answers=(votes[0], votes[1]),
        before=clipped(found.texts_before[question.uid][_shown(before, "")], LONGEST),
        after=clipped(found.texts_after[question.uid][_shown(after, kind)], LONGEST),
    )


def _shown(row: Answered, kind: str) -> int:
    """Which of the samples is shown: the longest, an unread one, else the first that gave the majority answer."""
    if kind == "longest":
        return row.lengths.index(max(row.lengths))
    return row.answers.index(None if kind == "unparsed" else row.majority)
