"""On-policy self-distillation (the paper's Algorithm 1): the student's own responses, scored by a teacher that reads
demonstrations.

    L = mean over tokens of KL(π_θ(·|x, y_<t) ‖ π_θ̄(·|C(x), x, y_<t))

Logged besides the loop's own (`nopsd.train.metrics`):

    reverse_kl, forward_kl        per-token means, both directions, student and target (nats)
    base_kl                       KL to the frozen base (distill.kl_base_coef); 0 where it isn't computed
    clip_frac, neg_frac, mask_frac    shares of the tokens: capped, of a negative loss, masked for entropy
    is_ratio                      mean importance ratio as capped (distill.is_clip); 0 where it isn't computed
    student_entropy, teacher_entropy, entropy_gap    next-token entropies on the student's y; teacher − student
    top16_overlap, top16_student_mass, top16_teacher_mass    share of common top-16 ids, and their mass
    high_entropy_share            of the tokens, those where the student's entropy is above HIGH_ENTROPY
    style_token_share             of the reverse KL, how much is on style tokens (train.style_words)
    demos_kept_mean, demos_offered_mean, teacher_prompt_length
    ema_distance                  ‖θ − θ̄‖
    retain_kl                     KL(student ‖ base) of a token of the questions from elsewhere (train.retain)
    drift_weight                  mean weight of a token, with distill.position_weight=drift
    context/fills|hits|mib        the teacher's prompts: computed, found computed already, MiB held by the fullest rank;
                                  of this start alone, so not the same after a resume
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nopsd.config import Config, shaping
from nopsd.data.prompts import TeacherPrompt
from nopsd.engine.distributed import Ranks
from nopsd.engine.ds_config import role_configs
from nopsd.engine.ema import ShardedEma
from nopsd.engine.family_check import check_training
from nopsd.engine.frozen import load_frozen
from nopsd.engine.sequence_parallel import ALONE, SequenceParallel, split_sequences
from nopsd.engine.student import load_student
from nopsd.errors import DataError
from nopsd.files import sha256_json
from nopsd.rollout.types import Rollout
from nopsd.traces.schema import TOKEN_VALUES
from nopsd.train.algorithms.by_response import by_response
from nopsd.train.algorithms.position_weights import drifts, falling, rising
from nopsd.train.batches import Batching, Example, MicroBatch
from nopsd.train.context_states import SHORTEST
from nopsd.train.gain import measure_gain
from nopsd.train.losses.fused_linear import DistillInputs
from nopsd.train.losses.head import DistillModel, gathered_weight
from nopsd.train.losses.tile import BASE, OTHER_PROMPTS, STATISTICS, auxiliaries
from nopsd.train.metrics import BatchLoss
from nopsd.train.planning import Limits, check_budget, owner
from nopsd.train.run import Algorithm, Step, Targets, TrainingInputs, TrainingRun
from nopsd.train.teachers import Teacher, TeacherStates, context_metrics, follower, teacher_of


class Target(NamedTuple):
    """What a micro-batch is drawn to: the teacher's states, and by name those on the objective's other prompts."""

    teacher: TeacherStates
    aux_hidden: dict[str, Tensor]
    factor_N: Tensor | None = None  # what its tokens' weights are multiplied by
    policy_N: Tensor | None = None  # as `DistillInputs.policy_N`


@dataclass(kw_only=True)
class Distillation(Algorithm):
    """`teacher_engine`: a second ZeRO-3 engine, or None where the student's engine teaches too (`load` sets it).

    `aux_prompts`: of the objective's further distributions (`targets.OTHER_PROMPTS`), name -> uid -> token ids.
    `style_ids`: tokens of style rather than substance, for the log. `stored`: the base model's own answers to some of
    the questions, one each, on which teacher and student are compared before the first step.
    """

    logged: Any = (*STATISTICS, "style_kl", "high_entropy")
    teacher_prompts: Mapping[str, TeacherPrompt]
    aux_prompts: Mapping[str, Mapping[str, list[int]]] = field(default_factory=dict)
    style_ids: tuple[int, ...] = ()
    stored: Sequence[Rollout] = ()
    retained: Mapping[str, list[int]] = field(default_factory=dict)
    retained_E: Tensor = field(init=False)  # of the step's examples, which are
    teacher_engine: Any = None
    teacher: Teacher = field(init=False)
    readings: Sequence[Mapping[str, list[int]]] = field(init=False)  # uid -> prompt: the teacher's, and its other ones

    def check(self, inputs: TrainingInputs) -> None:
        """Each selected question has its prompts, and some fit in the budget of tokens."""
        config, selected = inputs.config, inputs.selected
        if not selected:
            raise DataError("no question was selected: raise select.fraction or give more questions")
        for uid in selected:
            if uid not in inputs.student_prompts or uid not in self.teacher_prompts:
                raise DataError(f"question {uid} was selected but has no prompt: run the select stage again")
        lengths = [len(self.teacher_prompts[uid].ids) for uid in selected]
        check_budget(config.train.micro_tokens, min(lengths), max(lengths), config.train.max_response)
        self.aux_prompts = needed_aux_prompts(config, selected, self.aux_prompts)

    def identity(self, inputs: TrainingInputs) -> dict[str, Any]:
        """The objective, the teacher, and the prompts of both roles."""
        others = [self.aux_prompts[name] for name in sorted(self.aux_prompts)]
        prompts = [
            [uid, inputs.student_prompts[uid], self.teacher_prompts[uid].ids, *(other[uid] for other in others)]
            for uid in sorted(inputs.selected)
        ]
        kept = {"retained": sha256_json(sorted(self.retained.items()))} if self.retained else {}
        return {
            "distill": shaping(inputs.config, "distill"),
            "teacher": shaping(inputs.config, "teacher"),
            "prompts": sha256_json(prompts),
            **kept,
        }

    def load(self, inputs: TrainingInputs, parallel: SequenceParallel) -> tuple[Any, ShardedEma | None]:
        """The student and its average; the teacher's engine stays here."""
        student, self.teacher_engine, ema = load_engines(inputs.config, inputs.model_path, inputs.ranks, parallel)
        return student, ema

    def bind(self, run: TrainingRun) -> None:
        """The configured teacher, whatever it computes with; it reads retained questions as the student does."""
        if self.retained:
            own = {uid: TeacherPrompt(ids, 0, 0) for uid, ids in self.retained.items()}
            self.teacher_prompts, self.logged = {**self.teacher_prompts, **own}, (*type(self).logged, *RETAINED)
        self.readings = [{uid: prompt.ids for uid, prompt in self.teacher_prompts.items()}, *self.aux_prompts.values()]
        asked = run.student_prompts  # what the student reads itself is read whole
        prompts = [r[uid] for uid in sorted(run.selected) for r in self.readings if r[uid] != asked[uid]]
        groups = run.ranks.world // run.parallel.size
        self.teacher = teacher_of(run.config, run.student, self.teacher_engine, run.ranks, prompts, groups)

    def before(self, run: TrainingRun) -> None:
        """How far the demonstrations move the model on stored answers."""
        measure_gain(run, self.stored, {uid: prompt.ids for uid, prompt in self.teacher_prompts.items()})

    def meanwhile(self, run: TrainingRun, step: Step) -> Callable[[], None] | None:
        """The teacher reads the prompts of the step that it is to hold over steps (`teacher.early`)."""
        early, reader = run.config.teacher.early, self.teacher.readers[0]
        if early is None:
            early = run.ranks.device.type == "cuda" and not run.config.server.sleep
        if not early or reader.cache is None:
            return None
        group, groups = run.ranks.rank // run.parallel.size, run.ranks.world // run.parallel.size
        own = [uid for uid in step.uids if owner(uid, groups) == group]
        prompts = [reading[uid] for reading in self.readings for uid in own if uid in reading]
        return step.clock("teacher")(partial(reader.prepare, prompts))

    def examples(self, run: TrainingRun, step: Step) -> list[Example]:
        """Each rollout with both of its prompts; the response's ids go through untouched."""
        asked = [uid for uid in step.uids for _ in range(run.config.train.n)]
        if self.retained:
            self.retained_E = torch.tensor([uid in self.retained for uid in asked], device=run.ranks.device)
        return [
            Example(
                uid,
                rollout.prompt_ids,
                self.teacher_prompts[uid].ids,
                rollout.response_ids,
                rollout.logprobs,
                {name: prompts[uid] for name, prompts in self.aux_prompts.items()},
                trained_before=len(rollout.earlier_versions or ()),
            )
            for uid, rollout in zip(asked, step.rollouts, strict=True)
        ]

    def batching(self, run: TrainingRun) -> Batching:
        """By what the teacher computes too, and as the objective averages."""
        train, loss = run.config.train, run.config.distill
        once_from = SHORTEST + 1 if train.n > 1 else None  # of a prompt's tokens the last is computed with the response
        owners = any(reader.cache is not None for reader in self.teacher.readers)
        limits = Limits(train.micro, train.micro_tokens, train.packing, once_from, owners)
        span = (loss.skip_first_tokens, loss.max_loss_tokens)
        return Batching(limits, loss.aggregation, run.pad, *span, run.parallel, run.ranks.device)

    def targets(self, run: TrainingRun, step: Step) -> Targets:
        """The teacher's hidden states `[N, H]`, and those of its weights on the objective's other prompts."""
        teacher, batches = self.teacher, step.batches
        own = [batch.student for batch in batches]
        with step.clock("teacher"):
            states = teacher.hidden([batch.teacher for batch in batches], own)
            others: list[dict[str, Tensor]] = [{} for _ in batches]
            for name in auxiliaries(run.config.distill):
                sides = own if name == BASE else [batch.aux[name] for batch in batches]
                for other, found in zip(others, teacher.hidden(sides, own), strict=True):
                    other[name] = found.hidden_NH
            factors: Sequence[Tensor | None] = [None] * len(batches)
            metrics: dict[str, float] = {}
            if run.config.distill.position_weight is not None:
                factors, metrics = self.position_factors(run, step, states)
        return Targets([Target(*parts) for parts in zip(states, others, factors, strict=True)], metrics)

    def position_factors(
        self, run: TrainingRun, step: Step, states: Sequence[TeacherStates]
    ) -> tuple[list[Tensor], dict[str, float]]:
        """By `distill.position_weight`: what each micro-batch's weights are multiplied by, and what to log of it."""
        config = run.config.distill
        if config.position_weight == "rising":
            return rising(step.examples, step.batches, config), {}
        found = drifts(step.batches, [s.hidden_NH for s in states], partial(self.head, run), config.logit_chunk)
        (drift_ST,) = by_response(step.examples, step.batches, found, run.ranks)
        weight_ST = falling(drift_ST, config.drift_scale)
        places = [weight_ST[batch.example_N, batch.position_N].float() for batch in step.batches]
        counted_ST = ~drift_ST.isnan()
        return places, {"drift_weight": float(weight_ST[counted_ST].sum() / counted_ST.sum().clamp(min=1))}

    @contextmanager
    def head(self, run: TrainingRun) -> Iterator[Tensor]:
        """The teacher's whole output weight, its own or the student's, while the block lasts. Collective."""
        with self.teacher.weight() as own_VH:
            with nullcontext(own_VH) if own_VH is not None else gathered_weight(run.student.module.lm) as weight_VH:
                yield weight_VH

    def loss(self, run: TrainingRun, batch: MicroBatch, target: Target) -> BatchLoss:
        """The fused divergence of student and teacher at the response's tokens."""
        with self.teacher.weight() as teacher_weight_VH:
            inputs = DistillInputs(
                target.teacher.hidden_NH,
                teacher_weight_VH,
                batch.weights_N if target.factor_N is None else batch.weights_N * target.factor_N,
                batch.targets_N,
                batch.served_N,
                target.aux_hidden,
                target.teacher.mix,
                policy_N=target.policy_N,
            )
            side = batch.student
            result = run.student(
                input_ids_BT=side.ids_BT, rows_N=side.rows_N, loss_inputs=inputs, segments=side.segments
            )
        style_ids = torch.tensor(self.style_ids, dtype=torch.long, device=batch.targets_N.device)
        style_N = (batch.weights_N > 0) & torch.isin(batch.targets_N, style_ids)
        style_kl = result.reverse_kl_N[style_N].double().sum()
        by_token = dict(zip(TOKEN_VALUES, result.by_token_KN))
        high_N = (batch.weights_N > 0) & (by_token["student_entropy"] > HIGH_ENTROPY)
        sums = torch.cat([result.sums, torch.stack([style_kl, high_N.sum().double()])])
        if self.retained:
            kept_N = (batch.weights_N > 0) & self.retained_E[batch.example_N]
            kept = torch.stack([result.reverse_kl_N[kept_N].double().sum(), kept_N.sum().double()])
            sums = torch.cat([sums, kept])
        return BatchLoss(result.loss, result.student_logprob_N, sums, by_token)

    def after_step(self, run: TrainingRun, step: int) -> None:
        """Every `teacher.every` steps an averaged teacher takes a part of the student."""
        if run.ema is not None and (step + 1) % run.config.teacher.every == 0:
            run.ema.update()
            run.ema.write_teacher()

    def metrics(self, run: TrainingRun, step: Step, sums: Mapping[str, float]) -> dict[str, float]:
        """Means over the tokens, the prompts' lengths, how far the teacher is and what its cache did."""
        tokens, teacher = max(sums["tokens"], 1.0), self.teacher
        row = {name: sums[name] / tokens for name in STATISTICS if name not in NOT_LOGGED}
        row["high_entropy_share"] = sums["high_entropy"] / tokens
        row["entropy_gap"] = row["teacher_entropy"] - row["student_entropy"]
        whole_kl = row["reverse_kl"] * sums["tokens"]
        if self.style_ids and whole_kl > 0:
            row["style_token_share"] = sums["style_kl"] / whole_kl
        if self.retained:
            row["retain_kl"] = sums["retain_kl"] / max(sums["retain_tokens"], 1.0)
        prompts = [self.teacher_prompts[uid] for uid in step.uids]
        distance = torch.tensor([teacher.squared_distance(run.ranks.rank)], dtype=torch.float64)
        return {
            **row,
            "demos_kept_mean": fmean([p.kept for p in prompts]),
            "demos_offered_mean": fmean([p.offered for p in prompts]),
            "teacher_prompt_length": fmean([len(p.ids) for p in prompts]),
            "ema_distance": math.sqrt(float(run.ranks.all_sum(distance))),
            **context_metrics(teacher.readers, run.ranks),
        }


HIGH_ENTROPY = 0.672  # nats; about the upper fifth of a reasoning model's positions (arXiv 2506.01939)
RETAINED = ("retain_kl", "retain_tokens")
NOT_LOGGED = ("tokens", "student_logprob", "teacher_logprob")


def needed_aux_prompts(
    config: Config, selected: list[str], given: Mapping[str, Mapping[str, list[int]]]
) -> dict[str, dict[str, list[int]]]:
    """Those of the given prompts that the objective reads.

    Args:
        config: Its `distill.target` and `distill.contrast`.
        selected: The questions that are trained on.
        given: Name -> uid -> token ids.

    Raises:
        DataError: One is missing.
    """
    names = [name for name in auxiliaries(config.distill) if name in OTHER_PROMPTS]
    for name in names:
        for uid in selected:
            if not given.get(name, {}).get(uid):
                raise DataError(
                    f"question {uid} has no {name} prompt, which distill.target={config.distill.target} and "
                    f"distill.contrast={config.distill.contrast} need: set them back to teacher and null"
                )
    return {name: {uid: given[name][uid] for uid in selected} for name in names}


def load_engines(
    config: Config, model_path: Path, ranks: Ranks, parallel: SequenceParallel = ALONE
) -> tuple[Any, Any, ShardedEma | None]:
    """The engines of student and teacher.

    A live teacher needs no second model, nor does any teacher under LoRA (`nopsd.train.teachers`).

    Args:
        config: The run's.
        model_path: Folder of the base model.
        ranks: All that train.
        parallel: The ranks that compute a sequence together (`join`).

    Returns:
        Student engine, the teacher's own engine if it has one, and its moving average if it follows the student.

    Raises:
        ConfigError: Before any weight is read: the model's heads can't be shared out so.
    """
    train, dtype, trusted = config.train, config.model.dtype, config.model.trust_remote_code
    check_training(model_path, config)
    torch.manual_seed(train.seed + ranks.rank)
    student_config, teacher_config = role_configs(config, ranks.device.type)
    kind, teacher = config.teacher.kind, None
    if kind != "live" and not train.lora.r:
        teacher = load_frozen(
            str(model_path),
            dtype,
            teacher_config,
            trusted,
            packing=train.packing,
            prepare=lambda lm: split_sequences(lm, parallel),
        )

    def wrap(lm: Any) -> DistillModel:
        split_sequences(lm, parallel)
        return DistillModel(lm, config.distill)

    student = load_student(
        model_path, dtype, student_config, train, wrap, trusted, train.seed, with_teacher_adapter=kind == "ema"
    )
    if kind != "ema":
        return student, teacher, None
    return student, teacher, ShardedEma(*follower(student.module.lm, teacher), config.teacher.rate)
