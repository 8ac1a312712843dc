"""The report's examples: what both models answered to test and held-out questions, as the evaluations left it."""

from __future__ import annotations

from collections.abc import Sequence

from nopsd.evaluation.evaluate import group_by_question
from nopsd.evaluation.unlabelled import Answered
from nopsd.reporting.examples import Answers, Example, examples
from nopsd.rollout.types import FILE as ROLLOUTS
from nopsd.rollout.types import read_rollouts
from nopsd.run import folder as names
from nopsd.run.session import Session

Rows = Sequence[Answered]


def shown_examples(session: Session, before: Rows, after: Rows) -> list[Example]:
    """Of both models' rows of the same questions; none where either has none, or kept no responses.

    Args:
        session: The run's.
        before: The base model's rows of the pool's domain where it is tested, else of the held-out questions.
        after: The trained model's.
    """
    asked = session.tests.get(session.config.data.domain) or session.holdout
    if not (before and after):
        return []
    texts_before, texts_after = (_texts(session, stage) for stage in (names.EVALUATE_BASE, names.EVALUATE))
    if not (texts_before and texts_after):
        return []
    found = Answers(before, after, texts_before, texts_after)
    return examples({question.uid: question for question in asked}, found)


def _texts(session: Session, stage: str) -> dict[str, list[str]]:
    """uid -> responses in the order of the samples; empty where the evaluation kept none."""
    path = session.run.stage_dir(stage) / ROLLOUTS
    if not path.exists():
        return {}
    grouped = group_by_question(read_rollouts(path))
    return {uid: [r.text for r in sorted(found, key=lambda r: r.sample)] for uid, found in grouped.items()}
