"""Neuron On-Policy Self-Distillation, the loop (SPEC §6.2; the paper's Algorithm 1).

    for each step: B ← questions of S; y ← π_θ(·|x), zero-shot, from the server; teacher reads [C(x), x, y];
    L = mean over tokens of KL(π_θ(·|x, y_<t) ‖ π_θ̄(·|C(x), x, y_<t)); θ by AdamW; θ̄ by the average; server ← θ

Every rank runs it in step with the others. The server always holds version `step` while step `step` trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from nopsd.data.prompts import TeacherPrompt
from nopsd.engine.student import lr_at, set_lr
from nopsd.rollout.types import Rollout
from nopsd.train.algorithms.distill_metrics import StepSums, step_metrics
from nopsd.train.algorithms.distill_state import Distillation
from nopsd.train.batches import Example, MicroBatch, batch_uids, rank_micro_batches, with_aux_prompts
from nopsd.train.context_states import SHORTEST
from nopsd.train.losses.targets import BASE, auxiliaries
from nopsd.train.metrics import Clock
from nopsd.train.planning import Limits
from nopsd.train.sampling import Sampler
from nopsd.train.served import check_held, check_probe
from nopsd.train.steps import Steps, backward, refuse_if_stopped
from nopsd.train.teachers import TeacherStates


def distill(d: Distillation, step: int = 0, skipped: int = 0) -> None:
    """Train from `step` (so many are done, `skipped` of them not taken) to `train.steps`, or to `d.guards.stopped`.

    Raises Stopped on all ranks, with the step finished and saved, if any was asked to end (`d.stop`).
    """
    train = d.config.train
    refuse_if_stopped(d, step)
    with Sampler(d) as samples:
        steps = Steps(d, skipped, samples.extras)
        d.sync.push(version=step)
        check_held(d, samples.held, step)
        while step < train.steps:
            clock = Clock()
            uids = batch_uids(d.selected, step, train.batch, d.seed)
            with clock("rollout"):
                rollouts = samples.of(step)
            samples.begin(step + 1)
            batches = micro_batches(d, pair(rollouts, uids, train.n, d.teacher_prompts))
            with clock("teacher"):
                states = d.teaching.hidden([batch.teacher for batch in batches])
                others = auxiliary_hidden(d, batches)
            with clock("student"):
                set_lr(d.student, lr_at(step, train))
                sums = learn(d, batches, states, step, others)
            taken = d.student.was_step_applied()
            steps.skips.add(taken, step, uids, sums, d.ranks)
            if taken and d.ema is not None and (step + 1) % d.config.teacher.every == 0:
                d.ema.update()
                d.ema.write_teacher()
            with clock("rollout"):
                samples.finish()
            with clock("sync"):
                d.sync.push(version=step + 1)
                check_probe(d, rollouts[0], step + 1)
            if not steps.close(step, step_metrics(d, step, steps.skips.total, taken, sums, rollouts, uids, clock)):
                return
            step += 1


def pair(
    rollouts: Sequence[Rollout], uids: Sequence[str], samples: int, teacher_prompts: Mapping[str, TeacherPrompt]
) -> list[Example]:
    """Each rollout with both of its prompts; the response's ids go through untouched."""
    asked = [uid for uid in uids for _ in range(samples)]
    return [
        Example(uid, r.prompt_ids, teacher_prompts[uid].ids, r.response_ids, r.logprobs)
        for uid, r in zip(asked, rollouts, strict=True)
    ]


def micro_batches(d: Distillation, examples: list[Any]) -> list[MicroBatch]:
    """This rank's share of the step, on its device."""
    loss, train = d.config.distill, d.config.train
    examples = with_aux_prompts(examples, d.aux_prompts, auxiliaries(loss))
    once_from = SHORTEST + 1 if train.n > 1 else None  # of a prompt's tokens the last is computed with the response
    owners = any(reader.kept is not None for reader in d.teaching.readers)
    limits = Limits(train.micro, train.micro_tokens, train.packing, once_from, owners)
    batches = rank_micro_batches(
        examples,
        d.ranks.rank // d.parallel.size,
        d.ranks.world // d.parallel.size,
        limits,
        loss.aggregation,
        d.pad,
        loss.skip_first_tokens,
        loss.max_loss_tokens,
    )
    return [batch.share(d.parallel).to(d.ranks.device) for batch in batches]


def auxiliary_hidden(d: Distillation, batches: list[MicroBatch]) -> list[dict[str, Tensor]]:
    """Each batch's hidden states `[N, H]` of the teacher's weights on the objective's other prompts. Collective."""
    read: list[dict[str, Tensor]] = [{} for _ in batches]
    for name in auxiliaries(d.config.distill):
        sides = [batch.student if name == BASE else batch.aux[name] for batch in batches]
        for found, states in zip(read, d.teaching.hidden(sides), strict=True):
            found[name] = states.hidden_NH
    return read


def learn(
    d: Distillation,
    batches: list[MicroBatch],
    states: list[TeacherStates],
    step: int,
    others: list[dict[str, Tensor]],
) -> StepSums:
    """One optimizer step over all micro-batches: the gradient of the global L, whatever the split (§13.4).

    Refuses, before the weights move, responses that other weights than these have sampled.
    """
    sums = StepSums(d.ranks.device, d.style_ids)
    for index, (batch, taught, aux_hidden) in enumerate(zip(batches, states, others, strict=True)):
        # by hand, for the number of micro-batches changes from step to step
        d.student.set_gradient_accumulation_boundary(index == len(batches) - 1)
        with d.teaching.weight() as teacher_weight_VH:
            result = d.student(
                input_ids_BT=batch.student.ids_BT,
                rows_N=batch.student.rows_N,
                teacher_hidden_NH=taught.hidden_NH,
                teacher_weight_VH=teacher_weight_VH,
                token_weight_N=batch.weights_N,
                target_N=batch.targets_N,
                served_N=batch.served_N,
                aux_hidden=aux_hidden,
                teacher_mix=taught.mix,
                segments=batch.student.segments,
            )
        sums.add(batch, result)
        sums = backward(d, result.loss, sums, index == len(batches) - 1, step)
    return sums
