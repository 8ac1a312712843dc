"""`nopsd data --show N`: questions as they will be asked, and what will be judged right, before anything is spent.

In: the configuration. Out: a text. Nothing is started or written. Answers are read for what is shown alone.
"""

from __future__ import annotations

from nopsd.config import Config
from nopsd.data.overlap import facts_of, sentences
from nopsd.data.prompts import PromptRenderer
from nopsd.errors import UserError
from nopsd.evaluation.judge import Judge
from nopsd.run.session import Session
from nopsd.tasks.init.preview import preview, problems


def show(config: Config, count: int) -> str:
    """What to print. UserError for data that can't be read."""
    with Session(config) as session:
        splits = session.splits
        questions = [*splits.pool, *(q for tests in splits.tests.values() for q in tests)]
        judge = Judge(config)
        renderer, missing = _renderer(session)
        tests = ", ".join(f"{len(tests)} of {domain}" for domain, tests in splits.tests.items()) or "none"
        notes = [*sentences(facts_of(splits)), *problems(questions, judge, config), *missing]
        return "\n".join(
            [
                f"{len(splits.pool)} questions in the pool; to test on: {tests}",
                "",
                preview(config, questions, judge, renderer, count),
                *(f"\nNOTE: {note}" for note in notes),
            ]
        )


def _renderer(session: Session) -> tuple[PromptRenderer | None, list[str]]:
    try:
        return session.renderer, []
    except UserError as error:
        return None, [f"prompts are shown as messages, for the model can't be used: {error}"]
