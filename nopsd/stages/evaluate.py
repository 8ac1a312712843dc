"""Stages `evaluate_base` and `evaluate`: sample answers to the test questions and judge them with the answer key.

Questions held out of the pool are answered too, and are judged by nobody.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from nopsd.config import ENTRY_POINTS, Config, shaping_keys
from nopsd.data.records import Question
from nopsd.evaluation.artefacts import read_metrics, write_holdout, write_pool_correct, write_results
from nopsd.plugins import source_hashes
from nopsd.reporting.unfinished import of_metrics
from nopsd.rollout.stage import Lazily, run_rollouts
from nopsd.run import folder as names
from nopsd.run.session import Session, eval_sampling
from nopsd.run.stage import Counts, Progress, Stage
from nopsd.stages.holdout import BASE_ANSWERS, base_answers, gain, held_rows
from nopsd.stages.rollout import SERVED_WITH
from nopsd.stages.workload import responses

ANSWERS = "answers"


class _Evaluation(Stage):
    """What both evaluations share."""

    config_keys = (*shaping_keys("eval"), "prompt", "answer", *SERVED_WITH)
    remade_for: ClassVar[tuple[str, ...]] = (ANSWERS,)  # the responses stay, and are judged anew

    def check(self, session: Session) -> None:
        """Every test question can be judged."""
        session.judge.check(session.splits.tests)

    def judged(self, session: Session) -> list[Question]:
        """The questions whose gold answers are read."""
        return [q for tests in session.tests.values() for q in tests]

    def made_from(self, session: Session) -> dict[str, Any]:
        """The gold answers, and a judge of the user's own."""
        config = session.config
        own = source_hashes({"eval.extract": config.eval.extract, "answer.judge": config.answer.judge}, ENTRY_POINTS)
        questions = self.judged(session)
        return {ANSWERS: session.judge.answers_hash(questions), **own} if questions else own

    def finish(self, session: Session) -> str | None:
        """Whether the length limit, or the form of the answers, cost many of them."""
        found = read_metrics(session.run.stage_dir(self.name))
        return of_metrics(found, "eval.max_new", session.config.eval.max_new)

    def workload(self, config: Config, counts: Counts | None) -> str:
        """Responses and tokens."""
        return responses(
            sum(counts.tests.values()) + counts.held if counts else None, config.eval.n, config.eval.max_new
        )


class EvaluateBase(_Evaluation):
    """The base model on the tests, and how many of the pool's own answers are right, for the report alone."""

    name = names.EVALUATE_BASE
    does = "evaluate the base model"
    inputs = (names.DATA, names.ROLLOUT)

    def needed(self, config: Config) -> bool:
        """Always: also of method base, which trains nothing."""
        return True

    def judged(self, session: Session) -> list[Question]:
        """The tests, and the pool for the report."""
        tests = super().judged(session)
        return [*tests, *session.pool] if tests else []

    def work(self, session: Session, folder: Path, progress: Progress) -> None:
        """Sample and judge; judge the pool's rollouts."""
        evaluate_weights(session, folder, progress, "base", session.model.path, 0)
        if session.tests:
            shares = session.judge.pool_correctness(session.pool, session.rollouts, session.think_open)
            write_pool_correct(folder, shares)

    def finish(self, session: Session) -> str | None:
        """What the base model could gain from its own votes: before anything is trained."""
        return "\n      ".join(gain(session)) or None


class Evaluate(_Evaluation):
    """The trained model on the tests."""

    name = names.EVALUATE
    does = "evaluate the trained model"
    inputs = (names.DATA, names.TRAIN)
    remade_for = (ANSWERS, BASE_ANSWERS)

    def made_from(self, session: Session) -> dict[str, Any]:
        """The base model's answers too, where the held-out questions' are compared with them."""
        return {**super().made_from(session), **base_answers(session)}

    def work(self, session: Session, folder: Path, progress: Progress) -> None:
        """Load the export into the server, sample and judge."""
        steps = session.run.export_record()["steps"]
        evaluate_weights(session, folder, progress, "final", session.run.export, steps)


def evaluate_weights(
    session: Session, folder: Path, progress: Progress, name: str, weights: Path, version: int
) -> None:
    """Sample with the weights of a folder, as policy `version`. Tests are judged, held-out questions are not; without
    either only an empty result is written."""
    config = session.config
    questions = [*(q for tests in session.tests.values() for q in tests), *session.holdout]
    if not questions:
        write_results(folder, name, {})
        return
    prompts = [session.renderer.student(q) for q in questions]
    connect = cache(lambda: session.client_holding(weights, version))
    sampling, seed = eval_sampling(config.eval), config.eval.seed
    rollouts = run_rollouts(questions, prompts, Lazily(connect), sampling, seed, folder, version, progress)
    write_results(folder, name, session.judge.evaluate(session.tests, rollouts, session.think_open))
    if session.holdout:
        write_holdout(folder, name, held_rows(session, name, rollouts, connect))
