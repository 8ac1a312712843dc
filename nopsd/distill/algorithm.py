"""Neuron On-Policy Self-Distillation, the loop (SPEC §6.2; the paper's Algorithm 1).

    for each step: B ← questions of S; y ← π_θ(·|x), zero-shot, from the server; teacher reads [C(x), x, y];
    L = mean over tokens of KL(π_θ(·|x, y_<t) ‖ π_θ̄(·|C(x), x, y_<t)); θ by AdamW; θ̄ by the average; server ← θ

Every rank runs it in step with the others. The server always holds version `step` when step `step` samples.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from nopsd.distill import checkpoint
from nopsd.distill.batches import MicroBatch, batch_uids, rank_micro_batches, with_aux_prompts
from nopsd.distill.metrics import Clock, StepSums, step_metrics
from nopsd.distill.sampling import pair, sample_step
from nopsd.distill.score import Score, keep_of
from nopsd.distill.served import check_gap, check_probe
from nopsd.distill.state import Distillation
from nopsd.distill.targets import BASE, auxiliaries
from nopsd.distill.teachers import TeacherStates
from nopsd.engine.student import lr_at, set_lr


def distill(d: Distillation, step: int = 0, skipped: int = 0) -> None:
    """Train from `step` (so many are done, `skipped` of them not taken) to `train.steps`."""
    train, ranks, score = d.config.train, d.ranks, Score(d.config.train.best_by)
    d.sync.push(version=step)
    while step < train.steps:
        clock = Clock()
        uids = batch_uids(d.selected, step, train.batch, d.seed)
        with clock("rollout"):
            rollouts = sample_step(d.client, uids, d.student_prompts, train, d.seed, step, ranks)
        batches = micro_batches(d, pair(rollouts, uids, train.n, d.teacher_prompts))
        with clock("teacher"):
            states = [d.teaching.hidden(b) for b in batches]
            others = [auxiliary_hidden(d, b) for b in batches]
        with clock("student"):
            set_lr(d.student, lr_at(step, train))
            sums = learn(d, batches, states, step, others)
        taken = d.student.was_step_applied()
        skipped += not taken
        if taken and d.ema is not None and (step + 1) % d.config.teacher.every == 0:
            d.ema.update()
            d.ema.write_teacher()
        with clock("sync"):
            d.sync.push(version=step + 1)
            check_probe(d, rollouts[0], step + 1)
        values = step_metrics(d, step, skipped, taken, sums, rollouts, uids, clock)
        if d.log is not None:
            values |= probed(d, step + 1)
            d.log.log(step, values)
        score.add(values)
        step += 1
        if step % train.checkpoint_every == 0 or step == train.steps:
            checkpoint.save(
                d.student, d.ema, d.folder / "checkpoints", step, skipped, d.identity, keep_of(train), ranks,
                score.take(),
            )
        if d.progress is not None:
            d.progress(step, train.steps, loss=round(values["loss"], 5))


def probed(d: Distillation, version: int) -> dict[str, float]:
    """The probe's numbers every `train.probe_every` steps, and after the last."""
    every = d.config.train.probe_every
    due = every and (version % every == 0 or version == d.config.train.steps)
    return d.probe(version) if d.probe is not None and due else {}


def micro_batches(d: Distillation, examples: list[Any]) -> list[MicroBatch]:
    """This rank's share of the step, on its device."""
    loss = d.config.distill
    examples = with_aux_prompts(examples, d.aux_prompts, auxiliaries(loss))
    batches = rank_micro_batches(
        examples, d.ranks.rank, d.ranks.world, d.config.train.micro, loss.aggregation, d.pad, loss.skip_first_tokens,
        loss.max_loss_tokens, d.config.train.packing,
    )
    return [batch.to(d.ranks.device) for batch in batches]


def auxiliary_hidden(d: Distillation, batch: MicroBatch) -> dict[str, Tensor]:
    """Hidden states `[N, H]` of the teacher's weights on the other prompts the objective reads. Collective."""
    sides = {BASE: batch.student, **batch.aux}
    names = auxiliaries(d.config.distill)
    return {name: d.teaching.hidden(replace(batch, teacher=sides[name])).hidden_NH for name in names}


def learn(
    d: Distillation, batches: list[MicroBatch], states: list[TeacherStates], step: int,
    others: list[dict[str, Tensor]],
) -> StepSums:
    """One optimizer step over all micro-batches: the gradient of the global L, whatever the split (§13.4).

    Refuses, before the weights move, responses that other weights than these have sampled.
    """
    sums = StepSums(d.ranks.device, d.style_ids)
    for index, (batch, taught, aux_hidden) in enumerate(zip(batches, states, others, strict=True)):
        with d.teaching.weight() as teacher_weight_VH:
            result = d.student(
                input_ids_BT=batch.student.ids_BT, rows_N=batch.student.rows_N, teacher_hidden_NH=taught.hidden_NH,
                teacher_weight_VH=teacher_weight_VH, token_weight_N=batch.weights_N, target_N=batch.targets_N,
                served_N=batch.served_N, aux_hidden=aux_hidden,
                teacher_mix=taught.mix, segments=batch.student.segments,
            )
        # The weights hold the global mean: undo the averaging over ranks, leave out that over micro-batches.
        d.student.backward(result.loss * d.ranks.world, scale_wrt_gas=False)
        sums.add(batch, result)
        if index == len(batches) - 1:
            sums = sums.over_ranks(d.ranks)
            check_gap(d.config, sums, step)
        d.student.step()
    return sums
