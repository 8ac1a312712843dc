"""From sampled responses and the answer key to metrics and per-question rows (SPEC §9.2–9.3).

In:  questions of one domain, the answer key, eval.n rollouts a question.
Out: a DomainResult; on disk FOLDER/eval_{model}_{target}.jsonl, one row a question, and FOLDER/metrics.json.

This package is the only one that may see an answer key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from nopsd.config import EvalConfig
from nopsd.data.answers import extract_answer, normalize_text_answer
from nopsd.data.records import AnswerKey, Question
from nopsd.errors import ArtefactError, DataError
from nopsd.evaluation import metrics
from nopsd.evaluation.bootstrap import Interval, Outcomes, intervals, pass_ks
from nopsd.files import read_jsonl, write_json, write_jsonl
from nopsd.rollout.types import Rollout


@dataclass(frozen=True)
class QuestionRow:
    """One question's evaluation. Lists run over its samples."""

    uid: str
    answers: list[str | None]  # as extracted; None: none could be read
    gold: str
    correct: list[bool]
    majority: str | None
    share: float  # of the majority answer among all samples
    finish_reasons: list[str]
    lengths: list[int]  # response tokens


@dataclass(frozen=True)
class DomainResult:
    """One model on one domain's questions. Shares are fractions, not per cent."""

    domain: str
    rows: list[QuestionRow]
    metrics: dict[str, float]  # avg, maj, ece, pass@k, maj_minus_avg, distinct_answers, mean_length, ...
    intervals: dict[str, Interval]  # of avg, maj, ece and pass@k
    ece_bins: int
    bootstrap: int
    seed: int

    @property
    def samples(self) -> int:
        return len(self.rows[0].answers)

    @property
    def outcomes(self) -> Outcomes:
        return _outcomes(self.rows)


@dataclass(frozen=True)
class FixBreak:
    """Majority answers before -> after on the same questions: how many went right, went wrong, or stayed."""

    fixed: int
    broken: int
    stayed_right: int
    stayed_wrong: int


def check_answers(questions: Sequence[Question], answer_key: AnswerKey, source: str | Path = "the data") -> None:
    """Refuse questions that can't be judged, before anything is sampled. `source`: the file, for the message."""
    for question in questions:
        gold = answer_key.get(question.uid)
        if gold is None or not gold.strip():
            what = "has options but no answer" if question.options else "has no answer"
            raise DataError(f"{source}: question {question.uid} {what}: give one, or leave it out of the evaluation")
        labels = [option.label for option in question.options]
        if labels and gold not in labels:
            raise DataError(
                f"{source}: question {question.uid}: its answer {gold!r} is not among its options "
                f"({', '.join(labels)}): correct the answer or the options"
            )
        if not labels and not normalize_text_answer(gold):
            raise DataError(f"{source}: question {question.uid}: its answer {gold!r} holds no text: correct it")


def evaluate_domain(
    questions: Sequence[Question],
    answer_key: AnswerKey,
    rollouts_by_uid: Mapping[str, Sequence[Rollout]],
    config: EvalConfig,
    think_open: bool = False,
) -> DomainResult:
    """Judge config.n samples of every question.

    `think_open`: the prompts ended inside a think block (`nopsd.data.answers.leaves_think_open`).
    DataError: no questions, several domains, unusable answers. ArtefactError: a question without
    exactly its n samples.
    """
    domains = {question.domain for question in questions}
    if len(domains) != 1:
        named = f"got {', '.join(sorted(domains))}" if domains else "there are none"
        raise DataError(f"evaluation needs questions of one domain, {named}: check data.domain and eval.targets")
    check_answers(questions, answer_key)
    rows = [
        _judge(q, answer_key[q.uid], _samples(q, rollouts_by_uid, config.n), config.extract, think_open)
        for q in questions
    ]
    return result_from_rows(domains.pop(), rows, config)


def _samples(question: Question, rollouts_by_uid: Mapping[str, Sequence[Rollout]], n: int) -> list[Rollout]:
    samples = sorted(rollouts_by_uid.get(question.uid, ()), key=lambda r: r.sample)
    if [r.sample for r in samples] != list(range(n)):
        raise ArtefactError(
            f"question {question.uid} has samples {[r.sample for r in samples]}, not the {n} of eval.n: "
            "run the evaluation's sampling again"
        )
    aborted = [r.sample for r in samples if r.finish_reason == "abort"]
    if aborted:
        raise ArtefactError(f"question {question.uid}: samples {aborted} were aborted: run the sampling again")
    return samples


def _judge(question: Question, gold: str, samples: Sequence[Rollout], mode: str, think_open: bool) -> QuestionRow:
    gold = gold if question.options else normalize_text_answer(gold)
    answers = [extract_answer(r.text, question, mode, think_open) for r in samples]
    majority, share = metrics.majority_answer(answers)
    return QuestionRow(
        uid=question.uid,
        answers=answers,
        gold=gold,
        correct=[a == gold for a in answers],
        majority=majority,
        share=share,
        finish_reasons=[r.finish_reason for r in samples],
        lengths=[len(r.response_ids) for r in samples],
    )


def result_from_rows(domain: str, rows: Sequence[QuestionRow], config: EvalConfig) -> DomainResult:
    """All metrics and intervals of judged questions; DataError if there are none."""
    if not rows:
        raise DataError(f"domain {domain} has no evaluated questions")
    outcomes = _outcomes(rows)
    return DomainResult(
        domain=domain,
        rows=list(rows),
        metrics=_metrics(rows, outcomes, config.ece_bins),
        intervals=intervals(outcomes, config.ece_bins, config.bootstrap, config.seed),
        ece_bins=config.ece_bins,
        bootstrap=config.bootstrap,
        seed=config.seed,
    )


def _outcomes(rows: Sequence[QuestionRow]) -> Outcomes:
    return Outcomes(
        correct_Nk=np.array([row.correct for row in rows], dtype=bool),
        vote_N=np.array([row.majority == row.gold for row in rows], dtype=bool),
        share_N=np.array([row.share for row in rows]),
    )


def _metrics(rows: Sequence[QuestionRow], outcomes: Outcomes, bins: int) -> dict[str, float]:
    avg, maj = metrics.avg_at_k(outcomes.correct_Nk), metrics.maj_at_k(outcomes.vote_N)
    answers = [row.answers for row in rows]
    k = outcomes.correct_Nk.shape[1]
    return {
        "questions": len(rows),
        "samples": k,
        "avg": avg,
        "maj": maj,
        "ece": metrics.ece(outcomes.share_N, outcomes.vote_N, bins),
        **{f"pass@{j}": metrics.pass_at_k(outcomes.correct_Nk, j) for j in pass_ks(k)},
        "maj_minus_avg": maj - avg,
        "confidence": float(outcomes.share_N.mean()),
        "distinct_answers": metrics.distinct_answers(answers),
        "mean_length": metrics.mean_length([row.lengths for row in rows]),
        "unparsed": metrics.unparsed_share(answers),
        "truncated": metrics.truncated_share([row.finish_reasons for row in rows]),
    }


def fix_break(before: DomainResult, after: DomainResult) -> FixBreak:
    """How the majority answers moved between two evaluations of the same questions; DataError if they differ."""
    check_same_questions(before, after)
    was, now = before.outcomes.vote_N, after.outcomes.vote_N
    return FixBreak(*(int(x.sum()) for x in (~was & now, was & ~now, was & now, ~was & ~now)))


def check_same_questions(before: DomainResult, after: DomainResult) -> None:
    """DataError unless both judged the same questions, in the same order, against the same answers."""
    if [(r.uid, r.gold) for r in before.rows] != [(r.uid, r.gold) for r in after.rows]:
        raise DataError(
            f"the evaluations of {before.domain} and {after.domain} are of different questions: "
            "only the same test questions can be compared"
        )


def rows_path(folder: Path, model: str, target: str) -> Path:
    """FOLDER/eval_{model}_{target}.jsonl; characters a file name can't hold are percent-encoded."""
    return folder / f"eval_{quote(model, safe='')}_{quote(target, safe='')}.jsonl"


def write_rows(folder: Path, model: str, result: DomainResult) -> Path:
    path = rows_path(folder, model, result.domain)
    write_jsonl(path, [asdict(row) for row in result.rows])
    return path


def read_result(folder: Path, model: str, target: str, config: EvalConfig) -> DomainResult:
    """A DomainResult again, from its rows; ArtefactError if the file is missing, damaged or of another form."""
    path = rows_path(folder, model, target)
    try:
        rows = [QuestionRow(**row) for row in read_jsonl(path)]
    except TypeError as error:
        raise ArtefactError(f"{path} doesn't hold evaluation rows: delete it and evaluate again") from error
    return result_from_rows(target, rows, config)


def metrics_tree(results: Mapping[str, Mapping[str, DomainResult]]) -> dict[str, Any]:
    """{model: {target: {metrics, intervals}}} as plain data, JSON-ready."""
    return {
        model: {
            target: {
                "metrics": result.metrics,
                "intervals": {k: [v.low, v.high] for k, v in result.intervals.items()},
                "ece_bins": result.ece_bins,
                "bootstrap": result.bootstrap,
                "seed": result.seed,
            }
            for target, result in by_target.items()
        }
        for model, by_target in results.items()
    }


def write_metrics(folder: Path, results: Mapping[str, Mapping[str, DomainResult]]) -> Path:
    """FOLDER/metrics.json from {model: {target: result}}."""
    path = folder / "metrics.json"
    write_json(path, metrics_tree(results))
    return path
