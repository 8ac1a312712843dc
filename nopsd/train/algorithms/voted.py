"""Distillation among a question's own rollouts of the step: the vote of their answers says what the teacher is shown
and which of them are trained on. Label-free.

    u_opsd   the teacher is shown the shortest response that agrees; forward KL on the longest that disagree
    ttpo     the teacher is shown the voted answer alone; responses that agree are distilled, the others pushed down:

        agreeing     (1/T) Σ_t w_t FKL_t                       w = Ĥ + Δ̂ − Ĥ Δ̂
        disagreeing  −(λ A/T) Σ_t m_t log p(y_t)               m_t = 1[s_t ≥ median s], s_t = −log p(y_t) (1 − Ĥ_t)

    Ĥ, Δ̂: the student's entropies and the forward KLs (before any clip: chosen), scaled within a response from the least
    to the quantile ttpo.quantile, and cut to [0, 1]; A: the standardised reward of those that disagree. L is the mean
    over the responses trained on, T counts the tokens with loss.

Logged besides `algorithms.distill`:

    skipped_share       of the step's questions: the vote gave nothing to train on
    majority_share      the vote's share of a question's rollouts, mean over those that were not skipped
    trained_responses   of all ranks, in this step
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from nopsd.config import TtpoConfig, shaping
from nopsd.data.demonstrations import solution_text
from nopsd.data.prompts import PromptRenderer, TeacherPrompt
from nopsd.data.reading import AnswerReader
from nopsd.data.records import Question, questions_hash
from nopsd.data.wording import ANSWERS, Demonstration
from nopsd.errors import DataError
from nopsd.files import sha256_json
from nopsd.rollout.types import Rollout
from nopsd.traces.schema import TOKEN_VALUES
from nopsd.train.algorithms.by_response import by_response
from nopsd.train.algorithms.distill import Distillation, Target, needed_aux_prompts
from nopsd.train.algorithms.position_weights import LEAST
from nopsd.train.algorithms.roles import both_sides, short_teaches_long
from nopsd.train.batches import Example, MicroBatch
from nopsd.train.losses.fused_linear import DistillInputs, fused_linear_divergence
from nopsd.train.losses.head import gathered_weight
from nopsd.train.planning import check_budget
from nopsd.train.run import Step, Targets, TrainingInputs, TrainingRun
from nopsd.train.teachers import own_hidden, teacher_of


@dataclass(frozen=True)
class Lesson:
    """Of one question: what the teacher is shown as its solution, the samples trained on, and by sample the advantage
    of those that are pushed down. `share`: the vote's."""

    shown: str | None
    trained: tuple[int, ...]
    advantages: Mapping[int, float]
    share: float


@dataclass(kw_only=True)
class Voted(Distillation):
    """`questions`: by uid; they hold no answer. `renderer`: of the teacher's prompts, which are made in each step."""

    questions: Mapping[str, Question]
    renderer: PromptRenderer
    reader: AnswerReader = AnswerReader()
    teacher_prompts: dict[str, TeacherPrompt] = field(default_factory=dict)  # of the step
    advantages: list[float | None] = field(default_factory=list)  # of the step's examples; None: it is distilled
    vote: dict[str, float] = field(default_factory=dict)  # numbers of the step's, for the log

    @abstractmethod
    def lesson(self, run: TrainingRun, question: Question, rollouts: Sequence[Rollout], seed: str) -> Lesson | None:
        """What is learnt from a question's rollouts; None: nothing."""

    section: str = field(init=False, default="")  # of the method's own keys

    def check(self, inputs: TrainingInputs) -> None:
        """Each selected question has a prompt and is in the pool; some fit in the budget of tokens."""
        config, selected = inputs.config, inputs.selected
        if not selected:
            raise DataError("no question was selected: raise select.fraction or give more questions")
        for uid in selected:
            if uid not in inputs.student_prompts or uid not in self.questions:
                raise DataError(
                    f"question {uid} was selected but has no prompt, or is not in the pool: run select again"
                )
        lengths = [len(inputs.student_prompts[uid]) for uid in selected]
        check_budget(config.train.micro_tokens, min(lengths), config.context.max_prompt, config.train.max_response)
        self.aux_prompts = needed_aux_prompts(config, selected, {})

    def identity(self, inputs: TrainingInputs) -> dict[str, Any]:
        """The objective, the teacher, the method's own section, the questions and how a solution is shown."""
        config, uids = inputs.config, sorted(inputs.selected)
        return {
            "distill": shaping(config, "distill"),
            "teacher": shaping(config, "teacher"),
            self.section: shaping(config, self.section),
            "shown": [config.context.solution, config.context.placement, config.context.max_prompt],
            "prompts": sha256_json([[uid, inputs.student_prompts[uid]] for uid in uids]),
            "questions": questions_hash([self.questions[uid] for uid in uids]),
            "think_open": self.reader.think_open,
        }

    def bind(self, run: TrainingRun) -> None:
        """Nothing is kept over steps, whose prompts are all new."""
        config = replace(run.config, teacher=replace(run.config.teacher, context_mib=0))
        self.teacher = teacher_of(config, run.student, self.teacher_engine, run.ranks)

    def examples(self, run: TrainingRun, step: Step) -> list[Example]:
        """Of each question those that are trained on, with the teacher's prompt."""
        n, config = run.config.train.n, run.config
        self.teacher_prompts, self.advantages = {}, []
        found: list[Example] = []
        shares = []
        for group, uid in enumerate(step.uids):
            first, asked = group * n, run.student_prompts[uid]
            rollouts = step.rollouts[first : first + n]
            self.teacher_prompts.setdefault(uid, TeacherPrompt(asked, 0, 0))
            question = self.questions[uid]
            lesson = self.lesson(run, question, rollouts, f"{config.train.seed} {uid} {step.number} {group}")
            if lesson is None or lesson.shown is None:
                continue
            shown = [Demonstration(question, lesson.shown)]
            prompt = self.renderer.teacher(question, shown, config.context.max_prompt)
            if not prompt.kept:
                continue
            self.teacher_prompts[uid] = prompt
            shares.append(lesson.share)
            for sample in lesson.trained:
                rollout = rollouts[sample]
                found.append(
                    Example(uid, asked, prompt.ids, rollout.response_ids, rollout.logprobs, place=first + sample)
                )
                self.advantages.append(lesson.advantages.get(sample))
        skipped = 1 - len(shares) / len(step.uids)
        self.vote = {"skipped_share": skipped, "trained_responses": float(len(found))}
        if shares:
            self.vote["majority_share"] = fmean(shares)
        if found:
            return found
        self.advantages = [None]  # ranks must go through the step together, and nothing is learnt
        asked = run.student_prompts[step.uids[0]]
        return [Example(step.uids[0], asked, asked, step.rollouts[0].response_ids, teaches=False)]

    def targets(self, run: TrainingRun, step: Step) -> Targets:
        """As of any teacher, and the numbers of the vote."""
        found = super().targets(run, step)
        return Targets(found.of_batches, {**found.metrics, **self.vote})


@dataclass(kw_only=True)
class Uopsd(Voted):
    """The shortest that agrees teaches the longest that disagree (U-OPSD, arXiv 2608.06296)."""

    section: str = field(init=False, default="uopsd")

    def lesson(self, run: TrainingRun, question: Question, rollouts: Sequence[Rollout], seed: str) -> Lesson | None:
        """`roles.short_teaches_long`."""
        answers = self.reader.answers(rollouts, question)
        roles = short_teaches_long(answers, [len(r.response_ids) for r in rollouts], run.config.uopsd, seed)
        if roles is None:
            return None
        text = solution_text(rollouts[roles.reference].text, question, run.config.context.solution, self.reader)
        return Lesson(text, roles.trained, {}, roles.share)


@dataclass(kw_only=True)
class Ttpo(Voted):
    """Those that agree are distilled, the others pushed down (TTPO, arXiv 2608.27448)."""

    section: str = field(init=False, default="ttpo")

    def lesson(self, run: TrainingRun, question: Question, rollouts: Sequence[Rollout], seed: str) -> Lesson | None:
        """`roles.both_sides`."""
        answers = self.reader.answers(rollouts, question)
        roles = both_sides(answers, [len(r.response_ids) for r in rollouts], run.config.ttpo.train_n)
        if roles is None:
            return None
        down = dict.fromkeys(roles.disagreeing, roles.advantage)
        shown = ANSWERS[self.reader.format].format(roles.label)
        return Lesson(shown, (*roles.agreeing, *roles.disagreeing), down, roles.share)

    def targets(self, run: TrainingRun, step: Step) -> Targets:
        """What each token counts, and the slopes of those that are pushed down."""
        found = super().targets(run, step)
        with step.clock("weights"):
            values = [self.token_values(run, *pair) for pair in zip(step.batches, found.of_batches, strict=True)]
            logprob_ST, entropy_ST, kl_ST = by_response(step.examples, step.batches, values, run.ranks)
            weight_ST, slope_ST = token_parts(logprob_ST, entropy_ST, kl_ST, self.advantages, run.config.ttpo)
            targets = []
            for batch, target in zip(step.batches, found.of_batches, strict=True):
                at = batch.example_N, batch.position_N
                factor_N = weight_ST[at].float().clamp(min=LEAST)
                if target.factor_N is not None:
                    factor_N = factor_N * target.factor_N
                targets.append(target._replace(factor_N=factor_N, policy_N=slope_ST[at].float()))
        return Targets(targets, found.metrics)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def token_values(self, run: TrainingRun, batch: MicroBatch, target: Target) -> Tensor:
        """log p of the sampled token, the student's entropy and KL(q‖p), [3, N], before the step. Collective."""
        side = batch.student
        hidden_NH = own_hidden(run.student, side.ids_BT, side.rows_N, side.segments)
        with gathered_weight(run.student.module.lm) as weight_VH, self.teacher.weight() as teacher_VH:
            inputs = DistillInputs(
                target.teacher.hidden_NH,
                teacher_VH,
                batch.weights_N,
                batch.targets_N,
                aux_hidden=target.aux_hidden,
                teacher_mix=target.teacher.mix,
            )
            result = fused_linear_divergence(hidden_NH, weight_VH.detach(), inputs, run.config.distill)
        assert result.by_token_KN is not None and result.forward_kl_N is not None
        by_name = dict(zip(TOKEN_VALUES, result.by_token_KN))
        return torch.stack([by_name["student_logprob"], by_name["student_entropy"], result.forward_kl_N])


def token_parts(
    logprob_ST: Tensor, entropy_ST: Tensor, kl_ST: Tensor, advantages: Sequence[float | None], config: TtpoConfig
) -> tuple[Tensor, Tensor]:
    """Weights w of the tokens that are distilled (1 of others), slopes by log p of those pushed down (NaN of others).

    Args:
        logprob_ST: log p of the sampled tokens in nats; NaN: carries no loss.
        entropy_ST: Of the student, in nats.
        kl_ST: KL(q‖p) in nats.
        advantages: One a response; None: it agrees.
        config: `ttpo.coef` and `ttpo.quantile`.

    Source:
        TTPO, arXiv 2608.27448.
    """
    weight_ST, slope_ST = torch.ones_like(logprob_ST), torch.full_like(logprob_ST, torch.nan)
    for row, advantage in enumerate(advantages):
        counted_T = ~logprob_ST[row].isnan()
        if not counted_T.any():
            continue
        entropy_n = scaled(entropy_ST[row][counted_T], config.quantile)
        if advantage is None:
            kl_n = scaled(kl_ST[row][counted_T].clamp(min=0), config.quantile)
            weight_ST[row, counted_T] = entropy_n + kl_n - entropy_n * kl_n
        else:
            score_n = -logprob_ST[row][counted_T] * (1 - entropy_n)
            slope_ST[row, counted_T] = -config.coef * advantage * (score_n >= score_n.median()).double()
    return weight_ST, slope_ST


def scaled(values_n: Tensor, quantile: float) -> Tensor:
    """(x − min)/(Q − min) within [0, 1]; 0 where that is no number: all alike."""
    least, most = values_n.min(), torch.quantile(values_n, quantile)
    return ((values_n - least) / (most - least)).clamp(0, 1) if most > least else torch.zeros_like(values_n)
