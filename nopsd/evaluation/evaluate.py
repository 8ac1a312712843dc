"""Judge sampled responses with the answer key: questions and rollouts in, `DomainResult`s out.

This package is the only one that may see an answer key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nopsd.config import EvalConfig
from nopsd.data.equivalence import unified
from nopsd.data.judges.base import Same
from nopsd.data.reading import AnswerReader
from nopsd.data.records import AnswerKey, Question
from nopsd.errors import ArtefactError, DataError
from nopsd.evaluation import metrics
from nopsd.evaluation.results import DomainResult, QuestionRow, result_from_rows
from nopsd.rollout.types import Rollout

READER = AnswerReader()


def check_answers(
    questions: Sequence[Question],
    answer_key: AnswerKey,
    source: str | Path = "the data",
    reader: AnswerReader = READER,
) -> None:
    """Refuse questions that can't be judged, before anything is sampled.

    Args:
        questions: Of the test.
        answer_key: uid -> gold answer.
        source: The file, for the message.
        reader: Of gold answers.

    Raises:
        DataError: A question has no answer, one that is not among its options, or one that can't be read.
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
        if reader.gold(gold, question) is None:
            raise DataError(
                f"{source}: question {question.uid}: its answer {gold!r} can't be read: correct it, or see answer.judge"
            )


def evaluate_domain(
    questions: Sequence[Question],
    answer_key: AnswerKey,
    rollouts_by_uid: Mapping[str, Sequence[Rollout]],
    config: EvalConfig,
    reader: AnswerReader = READER,
) -> DomainResult:
    """Judge `config.n` samples of every question.

    Args:
        questions: Of one domain.
        answer_key: uid -> gold answer.
        rollouts_by_uid: Sampled responses.
        config: What is computed.
        reader: Of answers.

    Raises:
        DataError: No questions, several domains, unusable answers.
        ArtefactError: A question without exactly its n samples.
    """
    domains = {question.domain for question in questions}
    if len(domains) != 1:
        named = f"got {', '.join(sorted(domains))}" if domains else "there are none"
        raise DataError(f"evaluation needs questions of one domain, {named}: check data.domain and eval.targets")
    check_answers(questions, answer_key, reader=reader)
    rows = [_judge(q, answer_key[q.uid], samples_of(q, rollouts_by_uid, config.n), reader) for q in questions]
    return result_from_rows(domains.pop(), rows, config)


def samples_of(question: Question, rollouts_by_uid: Mapping[str, Sequence[Rollout]], n: int) -> list[Rollout]:
    """The question's n samples in order; ArtefactError if these aren't there, or some were aborted."""
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


def _judge(question: Question, gold: str, samples: Sequence[Rollout], reader: AnswerReader) -> QuestionRow:
    same, wanted = reader.same(question), reader.gold(gold, question)
    assert wanted is not None, f"question {question.uid}: check_answers reads every gold answer"
    read = [reader.read(r, question) for r in samples]
    answers = unified(read, same)
    majority, share = metrics.majority_answer(answers)
    return QuestionRow(
        uid=question.uid,
        answers=answers,
        gold=wanted,
        correct=[agrees(answer, wanted, same) for answer in read],
        majority=wanted if agrees(majority, wanted, same) else majority,
        share=share,
        finish_reasons=[r.finish_reason for r in samples],
        lengths=[len(r.response_ids) for r in samples],
    )


def agrees(answer: str | None, gold: str | None, same: Same) -> bool:
    """Whether an answer is the gold one, either way round."""
    return answer is not None and gold is not None and (same(gold, answer) or same(answer, gold))


def group_by_question(rollouts: Sequence[Rollout]) -> dict[str, list[Rollout]]:
    """uid -> its rollouts, in the order given."""
    grouped: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        grouped.setdefault(rollout.uid, []).append(rollout)
    return grouped
