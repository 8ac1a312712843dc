"""What is measured of the served policy while it trains: the probe, and every `eval.every` steps an evaluation.

Both sample from the server between two steps, with seeds of their own, and touch nothing that is trained. Numbers that
need labels begin with `eval/`; nothing in training goes by them (`train.best_by` offers label-free ones alone).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from nopsd.config import Config
from nopsd.data.records import Question
from nopsd.evaluation.artefacts import read_holdout
from nopsd.evaluation.evaluate import evaluate_domain, group_by_question
from nopsd.evaluation.unlabelled import AnswerRow, answer_rows, compare
from nopsd.rollout.service import RolloutService
from nopsd.rollout.types import Rollout
from nopsd.run import folder as names
from nopsd.run.session import Session, eval_sampling
from nopsd.train.metrics import probe_metrics
from nopsd.train.planning import is_due

Figures = dict[str, float]
JUDGED = ("avg", "maj", "ece", "unparsed", "truncated", "mean_length")
HELD = "eval/held_out"  # figures of the questions held out, without labels


def watch(session: Session, client: RolloutService, config: Config) -> Callable[[int], Figures]:
    """What rank 0 calls after a step that something is due after, with the version that is served.

    Args:
        session: The run's.
        client: Of the servers.
        config: With the steps settled.
    """
    parts = [
        (config.train.probe_every, label_free_probe(session, client)),
        (config.eval.every, evaluation(session, client)),
    ]

    def measured(version: int) -> Figures:
        found: Figures = {}
        for every, part in parts:
            if is_due(every, version, config.train.steps):
                found |= part(version)
        return found

    return measured


def label_free_probe(session: Session, client: RolloutService) -> Callable[[int], Figures]:
    """A probe of the served policy on the same pool questions every time, at evaluation's temperature."""
    config = session.config
    questions = session.pool[: config.train.probe_questions]
    prompts = [session.student_prompts[q.uid] for q in questions]
    sampling = replace(eval_sampling(config.eval), n=config.train.probe_samples)

    def probe(version: int) -> Figures:
        uids = [q.uid for q in questions]
        samples = client.generate(prompts, uids, sampling, config.seed, expected_version=version)
        return probe_metrics(questions, samples, session.eval_reader)

    return probe


def evaluation(session: Session, client: RolloutService) -> Callable[[int], Figures]:
    """The first `eval.every_questions` of each test domain, judged, and of those held out, unjudged."""
    config = session.config.eval
    first = config.every_questions

    def evaluate(version: int) -> Figures:
        tests = {domain: questions[:first] for domain, questions in session.tests.items()}
        held = session.holdout[:first]
        asked = [*(q for questions in tests.values() for q in questions), *held]
        if not asked:
            return {}
        prompts = [session.renderer.student(q) for q in asked]
        samples = client.generate(
            prompts, [q.uid for q in asked], eval_sampling(config), config.seed, expected_version=version
        )
        rollouts = [rollout for row in samples for rollout in row]
        found = judged(session, tests, rollouts)
        return found | (unjudged(session, held, rollouts) if held else {})

    return evaluate


def judged(session: Session, tests: dict[str, list[Question]], rollouts: Sequence[Rollout]) -> Figures:
    """eval/DOMAIN/METRIC by the answer key, without intervals."""
    by_uid, judge = group_by_question(rollouts), session.judge
    config = replace(session.config.eval, bootstrap=0)
    return {
        f"eval/{domain}/{metric}": result.metrics[metric]
        for domain, questions in tests.items()
        for result in [evaluate_domain(questions, judge.key, by_uid, config, session.eval_reader)]
        for metric in JUDGED
    }


def unjudged(session: Session, held: Sequence[Question], rollouts: Sequence[Rollout]) -> Figures:
    """eval/held_out/FIGURE: against the base's answers where these are there, else the policy's own alone."""
    config = session.config.eval
    known = {row.uid: row for row in read_holdout(session.run.stage_dir(names.EVALUATE_BASE), "base")}
    base = [known[question.uid] for question in held if question.uid in known]
    rows = answer_rows(held, group_by_question(rollouts), config.n, session.eval_reader, base=base)
    if len(base) < len(held):
        return {f"{HELD}/vote_share": mean_share(rows)}
    found = compare(base, rows, 0, config.seed)
    figures = {f"{HELD}/{name}": figure.after.value for name, figure in found.figures.items()}
    return {**figures, f"{HELD}/same_majority": found.same_majority.value}


def mean_share(rows: Sequence[AnswerRow]) -> float:
    """The majority's mean share of the votes."""
    return float(np.mean([row.share for row in rows]))
