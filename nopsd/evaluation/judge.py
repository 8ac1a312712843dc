"""The judge of a run: the only holder of the answer key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from nopsd.config import Config
from nopsd.data.reading import AnswerReader, answer_reader
from nopsd.data.records import AnswerKey, Question
from nopsd.data.sources.others import load_run_answers, other_targets
from nopsd.evaluation.evaluate import agrees, check_answers, evaluate_domain, group_by_question
from nopsd.evaluation.results import DomainResult
from nopsd.files import sha256_json
from nopsd.rollout.types import Rollout


class Judge:
    """What is judged by the answer key, which is read when it is first needed, and once.

    `think_open` of its methods: the prompts ended inside a think block (`nopsd.data.answers.leaves_think_open`).
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    @cached_property
    def key(self) -> AnswerKey:
        """uid -> gold answer. For evaluation, and method opsd_oracle, alone."""
        return load_run_answers(self.config)

    def check(self, tests: Mapping[str, Sequence[Question]]) -> None:
        """Checked before the run starts: every test question can be judged. Raises DataError, or ConfigError."""
        reader, own = self.reader(), self.config.data.path or self.config.data.name
        others = {target.domain: target.name for target in other_targets(self.config)}
        for domain, questions in tests.items():
            where = others.get(domain, own)
            check_answers(questions[: self.config.eval.limit], self.key, where, reader)

    def reader(self, think_open: bool = False) -> AnswerReader:
        """Of answers, as the evaluation reads them. ConfigError if a user's own code can't be loaded."""
        return answer_reader(self.config, self.config.eval.extract, think_open)

    def answers_hash(self, questions: Iterable[Question]) -> str:
        """By which a judged result knows the gold answers that it was judged by."""
        return sha256_json({q.uid: self.key.get(q.uid) for q in questions})

    def known(self, questions: Sequence[Question]) -> list[Question]:
        """Those of the questions that can be judged."""
        return [q for q in questions if (self.key.get(q.uid) or "").strip()]

    def evaluate(
        self, tests: Mapping[str, Sequence[Question]], rollouts: Sequence[Rollout], think_open: bool = False
    ) -> dict[str, DomainResult]:
        """Judge one model's rollouts on every test domain.

        Args:
            tests: Questions by domain.
            rollouts: Sampled responses to all of them.
            think_open: The prompts ended inside a think block.

        Raises:
            DataError, ArtefactError: As `evaluate_domain`.
        """
        by_uid, reader = group_by_question(rollouts), self.reader(think_open)
        return {
            domain: evaluate_domain(questions, self.key, by_uid, self.config.eval, reader)
            for domain, questions in tests.items()
        }

    def pool_correctness(
        self, pool: Sequence[Question], rollouts: Sequence[Rollout], think_open: bool = False
    ) -> dict[str, float]:
        """Share of each pool question's own zero-shot responses that are right, where the answer is known.

        For diagnostics in the report: nothing is selected or trained by it.

        Args:
            pool: The questions.
            rollouts: Their zero-shot responses.
            think_open: The prompts ended inside a think block.

        Returns:
            uid -> share.
        """
        questions, reader = {q.uid: q for q in pool if q.uid in self.key}, self.reader(think_open)
        shares = {}
        for uid, samples in group_by_question(rollouts).items():
            if uid in questions:
                question = questions[uid]
                gold, same = reader.gold(self.key[uid], question), reader.same(question)
                shares[uid] = sum(agrees(reader.read(r, question), gold, same) for r in samples) / len(samples)
        return shares
