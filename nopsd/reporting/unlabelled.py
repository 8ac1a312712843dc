"""The report's part on held-out questions: base and trained model compared without labels, as tables.

In: a `Comparison`, the questions by uid, and judged results where there is a labelled set. Out: markdown tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from nopsd.data.records import Question
from nopsd.evaluation.bootstrap import Interval
from nopsd.evaluation.results import DomainResult
from nopsd.evaluation.unlabelled import LEVELS, Comparison, Flip, share_levels
from nopsd.reporting.escaping import escape
from nopsd.reporting.table import MISSING, markdown_table, signed

SHOWN = 12  # majority answers that changed, surest first
LONGEST = 160  # characters of a question in the table
# Figures in the order people look: name -> label, scale, decimals.
ROWS = {
    "base_vote": ("answers equal to the base's majority, %", 100.0, 1),
    "vote_share": ("majority's share of the votes, %", 100.0, 1),
    "distinct": ("different answers a question", 1.0, 2),
    "nats": ("surprise at its own answers, nats a token", 1.0, 4),
    "unread": ("answers that can't be read, %", 100.0, 1),
    "unfinished": ("responses cut at the limit, %", 100.0, 1),
    "length": ("response length, tokens", 1.0, 1),
    "repeated": ("repeated 4-grams in a response, %", 100.0, 1),
}


def figures_table(found: Comparison) -> Markup:
    """Every figure before, after, and its change with a 95 % interval."""
    rows = [
        [
            label,
            *(_shown(side, scale, places) for side in (figure.before, figure.after)),
            change_text(figure.change, *how),
        ]
        for name, (label, scale, places) in ROWS.items()
        if (figure := found.figures.get(name)) is not None
        for how in [(scale, places)]
    ]
    return Markup(markdown_table(["", "base", "trained", "change"], rows))


def _shown(value: Interval, scale: float, places: int) -> str:
    return f"{value.value * scale:.{places}f}"


def change_text(value: Interval, scale: float, places: int) -> str:
    """A change with its interval, scaled."""
    ends = [signed(end * scale, places) for end in (value.low, value.high) if end is not None]
    return f"{signed(value.value * scale, places)}{f' [{ends[0]}, {ends[1]}]' if ends else ''}"


def levels_table(found: Comparison, results: Mapping[str, tuple[DomainResult | None, DomainResult | None]]) -> Markup:
    """Questions by their majority's share of the votes; where a labelled set was judged, how often such a majority was
    right there, of both models.

    Args:
        found: The comparison.
        results: Domain -> the base's and the trained model's result on a labelled set.
    """
    judged = [(domain, side, result) for domain, both in results.items() for side, result in zip("ba", both) if result]
    header = ["majority's share", "base", "trained"]
    header += [f"right in {escape(domain)}, {'base' if side == 'b' else 'trained'}" for domain, side, _ in judged]
    right = [_right_by_level(result) for _, _, result in judged]
    rows = [
        [name, *(str(side[level]) for side in found.levels), *(shares[level] for shares in right)]
        for level, name in enumerate(LEVELS)
    ]
    return Markup(markdown_table(header, rows))


def _right_by_level(result: DomainResult) -> list[str]:
    """Share of right majority answers at each level of their share, with how many questions that is of."""
    votes = result.outcomes.vote_N
    levels = np.array([int(np.argmax(share_levels([row]))) for row in result.rows])
    found = [votes[levels == level] for level in range(len(LEVELS))]
    return [f"{100 * right.mean():.0f} % of {len(right)}" if len(right) else MISSING for right in found]


def flips_table(flips: Sequence[Flip], questions: Mapping[str, Question]) -> Markup:
    """Majority answers that changed, as text, with their share of the votes."""
    rows = [
        [
            escape(clipped(questions[flip.uid].question, LONGEST)),
            f"{answer_text(questions[flip.uid], flip.before)} ({flip.share_before:.0%})",
            f"{answer_text(questions[flip.uid], flip.after)} ({flip.share_after:.0%})",
        ]
        for flip in flips[:SHOWN]
        if flip.uid in questions
    ]
    return Markup(markdown_table(["question", "base (votes)", "trained (votes)"], rows))


def answer_text(question: Question, answer: str | None) -> str:
    """An answer as people read it: a label with its option's text. Escaped."""
    if answer is None:
        return "none read"
    text = {option.label: option.text for option in question.options}.get(answer)
    return escape(clipped(answer if text in (None, answer) else f"{answer}: {text}", LONGEST))


def clipped(text: str, longest: int) -> str:
    """At most so many characters; what was cut is marked."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
