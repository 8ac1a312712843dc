"""Judge sampled responses with the answer key: questions and rollouts in, `DomainResult`s out.

This package is the only one that may see an answer key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nopsd.config import EvalConfig
from nopsd.data.answers import extract_answer, normalize_text_answer
from nopsd.data.readers import own_reader
from nopsd.data.records import AnswerKey, Question
from nopsd.errors import ArtefactError, DataError
from nopsd.evaluation import metrics
from nopsd.evaluation.results import DomainResult, QuestionRow, result_from_rows
from nopsd.rollout.types import Rollout


def check_answers(questions: Sequence[Question], answer_key: AnswerKey, source: str | Path = "the data") -> None:
    """Refuse questions that can't be judged, before anything is sampled.

    Args:
        questions: Of the test.
        answer_key: uid -> gold answer.
        source: The file, for the message.

    Raises:
        DataError: A question has no answer, or one that is not among its options.
    """
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
    """Judge `config.n` samples of every question.

    Args:
        questions: Of one domain.
        answer_key: uid -> gold answer.
        rollouts_by_uid: Sampled responses.
        config: How answers are read, and what is computed.
        think_open: The prompts ended inside a think block (`nopsd.data.answers.leaves_think_open`).

    Raises:
        DataError: No questions, several domains, unusable answers.
        ArtefactError: A question without exactly its n samples.
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
    gold = comparable_gold(question, gold, mode)
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


def comparable_gold(question: Question, gold: str, mode: str = "lenient") -> str:
    """The gold answer in the form that `extract_answer` gives: a label, normalised text, or what a user's own reads."""
    own = own_reader(mode)
    read = own(gold, question) if own and not question.options else None
    return read or (gold if question.options else normalize_text_answer(gold))


def group_by_question(rollouts: Sequence[Rollout]) -> dict[str, list[Rollout]]:
    """uid -> its rollouts, in the order given."""
    grouped: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        grouped.setdefault(rollout.uid, []).append(rollout)
    return grouped
