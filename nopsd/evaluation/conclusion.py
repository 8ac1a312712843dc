"""What a comparison without labels says in plain words, and what it can't say.

The direction goes by one figure: how often the answers are the base model's majority answer. If that is right more
often than any other answer, and wrong answers are as likely to be given up as right ones, moving towards it is getting
better. How often that held on lab runs whose labels were hidden stands in docs/results.md (`tools/hidden_labels.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nopsd.config import METHODS, Config
from nopsd.evaluation.bootstrap import Interval
from nopsd.evaluation.unlabelled import LEVELS, Answered, Comparison, share_levels

FORM = 0.02  # least rise of unread or cut answers that is reported
COLLAPSE = 0.2  # a rise of the commonest majority answer's share of the questions
LITTLE = 0.02  # votes against the majority: below, there is next to nothing to agree on
ROUNDING = 1e-3  # nats a token: about what bfloat16 alone makes of equal distributions (docs/training.md)
BETTER, WORSE, UNKNOWN = 1, -1, 0
LIMITS = (
    "More agreement is not more accuracy: a model that learns its own errors gets surer of them. The direction "
    "supposes that the base model's majority answer is mostly right; where it is mostly wrong, the opposite follows.",
    "No label was read. A few dozen answers checked by hand, or a labelled set named in eval.targets, tell more than "
    "this page.",
)


@dataclass(frozen=True)
class Conclusion:
    """`direction`: BETTER, WORSE or UNKNOWN. `sentences`: it in words, what else was seen, and the limits."""

    direction: int
    sentences: list[str]


THINKING = (
    "Thinking is on: teachers that see a context have cost thinking models up to 17 % of Avg@16, relatively, at long "
    "budgets (arXiv 2607.05184) and made them doubt less (arXiv 2603.24472). Evaluate at the full eval.max_new, and "
    "watch high_entropy_share and hedging_share."
)


def thinks(config: Config) -> bool:
    """Whether a distilled model thinks, as far as its name and the prompt's settings say."""
    asked = config.prompt.enable_thinking
    named = "thinking" in config.model.path.lower()
    return METHODS[config.method].trainer == "distill" and (named if asked is None else asked)


def conclude(found: Comparison) -> Conclusion:
    """The direction that the figures point to, with reasons and limits."""
    broken = _broken_form(found)
    direction, first = (WORSE, broken) if broken else _by_base_vote(found)
    return Conclusion(direction, [first, *_seen(found), *LIMITS])


def _broken_form(found: Comparison) -> str:
    """Why the answers' form broke; empty if it didn't."""
    for name, what in (("unread", "answers that can't be read"), ("unfinished", "responses cut at the limit")):
        figure = found.figures[name]
        if figure.change.value > FORM and (figure.change.low is None or figure.change.low > 0):
            return (
                f"Likely worse: {what} rose from {figure.before.value:.1%} to {figure.after.value:.1%} "
                f"({points(figure.change)} points)."
            )
    return ""


def _by_base_vote(found: Comparison) -> tuple[int, str]:
    figure = found.figures.get("base_vote")
    if figure is None:
        return UNKNOWN, "No direction can be seen from one answer a question: set eval.n to 8, say."
    change = figure.change
    said = (
        f"{figure.after.value:.1%} of the trained model's answers are what the base model mostly answered, "
        f"{figure.before.value:.1%} of the base's own ({points(change)} points, on {found.questions} questions)"
    )
    if change.low is not None and change.low > 0:
        return BETTER, f"Likely better: it moved towards the base model's majority answers. {said}."
    if change.high is not None and change.high < 0:
        return WORSE, f"Likely worse: it moved away from the base model's majority answers. {said}."
    return UNKNOWN, f"No direction can be seen: {said}."


def _seen(found: Comparison) -> list[str]:
    share = found.figures["vote_share"]
    sentences = [
        f"The majority answer changed for {1 - found.same_majority.value:.1%} of the questions; its share of the votes "
        f"went from {share.before.value:.1%} to {share.after.value:.1%} ({points(share.change)} points)."
    ]
    before, after = found.commonest
    if after - before > COLLAPSE:
        sentences.append(
            f"Collapse: one answer is the majority of {after:.1%} of the questions, {before:.1%} before: the model may "
            "have stopped reading them."
        )
    if found.drift is not None:
        low_high = "" if found.drift.low is None else f" [{found.drift.low:.3f}, {found.drift.high:.3f}]"
        sentences.append(
            f"The base's own answers are less likely to the trained model by {found.drift.value:.3f}{low_high} nats a "
            "token (an estimate of KL(base ‖ trained) on sampled answers)."
        )
    return sentences


def points(change: Interval) -> str:
    """A change of a share in points, with its interval."""
    ends = "" if change.low is None or change.high is None else f" [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
    return f"{100 * change.value:+.1f}{ends}"


def room_to_gain(rows: Sequence[Answered]) -> list[str]:
    """What a base model could gain from its own votes, before anything is trained: sentences, warnings first."""
    count = len(rows)
    share = sum(row.share for row in rows) / count
    unread = sum(a is None for row in rows for a in row.answers) / sum(len(row.answers) for row in rows)
    levels = ", ".join(f"{name}: {n}" for name, n in zip(LEVELS, share_levels(rows), strict=True) if n)
    sentences = [
        f"The base model's majority answers have {share:.1%} of its votes (questions by that share: {levels}). The "
        f"other {1 - share:.1%} are what agreeing with itself could change."
    ]
    if unread > 0.5:
        sentences.insert(
            0, f"WARNING: {unread:.0%} of the base model's answers can't be read: see eval.extract and max_new."
        )
    elif 1 - share < LITTLE:
        sentences.insert(
            0,
            "WARNING: the base model answers nearly every question the same way each time: there is next to nothing to "
            "gain from its own answers here. Take harder questions, or another model.",
        )
    return sentences


def teacher_gain(gain: Mapping[str, Any]) -> list[str]:
    """What the teacher can tell the student before the first step: a sentence, and a warning where it is nothing.

    Args:
        gain: `teacher_kl`, and `by_question` that it is the mean of, nats a token.
    """
    if not gain:
        return []
    each, mean = gain["by_question"].values(), gain["teacher_kl"]
    sentences = [
        f"Before training, demonstrations moved the base model by {mean:.4f} nats a token on its own answers to "
        f"{len(each)} of the questions ({min(each):.4f} to {max(each):.4f}): KL(student ‖ teacher), what there was to "
        "distil."
    ]
    if mean < ROUNDING:
        sentences.insert(
            0,
            "WARNING: the teacher says the same as the student, up to rounding: there is next to nothing to distil. "
            "See that demonstrations are there and fit (context.m, context.max_prompt; demos_kept_mean in the log).",
        )
    return sentences
