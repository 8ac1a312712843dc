"""Stages `evaluate_base` and `evaluate`: judge sampled answers with the answer key, which is read here alone.

Files: eval_{model}_{domain}.jsonl and metrics.json; beside the base model's also pool_correct.json,
which says how often the pool's own zero-shot answers are right, for the report's diagnostics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from nopsd.config import Config
from nopsd.data.answers import extract_answer, normalize_text_answer
from nopsd.data.records import AnswerKey, Question
from nopsd.data.sources import load_answer_key
from nopsd.evaluation.evaluate import DomainResult, check_answers, evaluate_domain, write_metrics, write_rows
from nopsd.files import read_json, write_json
from nopsd.rollout.types import Rollout

POOL_CORRECT = "pool_correct.json"


class Judge:
    """What is judged by the answer key, which is read when it is first needed, and once."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @cached_property
    def key(self) -> AnswerKey:
        """uid -> gold answer. For evaluation, and method opsd_oracle, alone."""
        return load_answer_key(self.config.data)

    def check(self, tests: Mapping[str, Sequence[Question]]) -> None:
        """Before anything is sampled: every test question can be judged. Raises DataError."""
        for questions in tests.values():
            where = self.config.data.path or self.config.data.name
            check_answers(questions[: self.config.eval.limit], self.key, where)

    def known(self, questions: Sequence[Question]) -> list[Question]:
        """Those of the questions that can be judged."""
        return [q for q in questions if (self.key.get(q.uid) or "").strip()]

    def evaluate(
        self,
        name: str,
        tests: Mapping[str, Sequence[Question]],
        rollouts: Sequence[Rollout],
        folder: Path,
        think_open: bool = False,
    ) -> dict[str, DomainResult]:
        """Judge one model's rollouts on every test domain, write the results; empty tests give an empty metrics.json.

        `think_open`: the prompt's own generation suffix opens a think block (`Session.think_open`).
        """
        by_uid = group_by_question(rollouts)
        results = {}
        for domain, questions in tests.items():
            results[domain] = evaluate_domain(questions, self.key, by_uid, self.config.eval, think_open)
            write_rows(folder, name, results[domain])
        write_metrics(folder, {name: results})
        return results

    def judge_pool(
        self, pool: Sequence[Question], rollouts: Sequence[Rollout], folder: Path, think_open: bool = False
    ) -> None:
        """Write uid -> share of the pool question's own zero-shot answers that are right, where the answer is known."""
        questions, mode = {q.uid: q for q in pool if q.uid in self.key}, self.config.eval.extract
        shares = {
            uid: sum(_right(r, questions[uid], self.key[uid], mode, think_open) for r in samples) / len(samples)
            for uid, samples in group_by_question(rollouts).items()
            if uid in questions
        }
        write_json(folder / POOL_CORRECT, shares)


def group_by_question(rollouts: Sequence[Rollout]) -> dict[str, list[Rollout]]:
    grouped: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        grouped.setdefault(rollout.uid, []).append(rollout)
    return grouped


def read_pool_correct(folder: Path) -> dict[str, float]:
    """What `Judge.judge_pool` wrote; empty if it has not run."""
    path = folder / POOL_CORRECT
    found: dict[str, float] = read_json(path) if path.exists() else {}
    return found


def _right(rollout: Rollout, question: Question, gold: str, mode: str, think_open: bool) -> bool:
    answer = extract_answer(rollout.text, question, mode, think_open)
    return answer == (gold if question.options else normalize_text_answer(gold))
