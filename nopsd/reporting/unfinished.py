"""What is said after sampling where the length limit, or the form of the answers, cost many of them.

In: shares of responses. Out: one line, or None where few are lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nopsd.data.reading import AnswerReader
from nopsd.data.records import Question
from nopsd.rollout.types import Rollout

MANY = 0.05  # share of the responses


def unfinished(cut: float, unread: float, key: str, limit: int) -> str | None:
    """What to do about answers that are missing.

    Args:
        cut: Share of the responses that met the length limit.
        unread: Share whose answer can't be read.
        key: Of the limit.
        limit: Its value, tokens.
    """
    if cut >= MANY:
        return (
            f"{cut:.0%} of the answers did not finish in {limit} tokens, and {unread:.0%} of all can't be read: "
            f"raise {key}, or ask for shorter ones (prompt.instruction)"
        )
    if unread >= MANY:
        return (
            f"{unread:.0%} of the answers can't be read though they finished: ask for another form "
            "(prompt.answer_format, prompt.instruction), or see answer.judge"
        )
    return None


def of_rollouts(
    rollouts: Sequence[Rollout], questions: Mapping[str, Question], reader: AnswerReader, key: str, limit: int
) -> str | None:
    """`unfinished` of these rollouts, none of which has a gold answer."""
    if not rollouts:
        return None
    cut = sum(r.truncated for r in rollouts) / len(rollouts)
    unread = sum(reader.read(r, questions[r.uid]) is None for r in rollouts) / len(rollouts)
    return unfinished(cut, unread, key, limit)


def of_metrics(metrics: Mapping[str, Mapping[str, float]], key: str, limit: int) -> str | None:
    """`unfinished` of an evaluation's domains together; None without any."""
    weights = [found["questions"] * found["samples"] for found in metrics.values()]
    if not sum(weights):
        return None

    def share(name: str) -> float:
        return sum(w * found[name] for w, found in zip(weights, metrics.values(), strict=True)) / sum(weights)

    return unfinished(share("truncated"), share("unparsed"), key, limit)
