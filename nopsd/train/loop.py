"""Neuron On-Policy Self-Distillation's training loop (the paper's Algorithm 1), which all algorithms run.

    for each step: B ← questions of S; y ← π_θ(·|x), zero-shot, from the server; targets of the loss; θ by AdamW;
    what follows θ (an averaged teacher); server ← θ; log, guards, checkpoint

What is sampled, what is learned from, the loss and its metrics are an `Algorithm`'s (nopsd/train/algorithms). Every
rank runs the loop in step with the others. The server always holds version `step` while step `step` trains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from nopsd.engine.distributed import broadcast_from_rank0
from nopsd.errors import Stopped
from nopsd.heap import give_back_freed
from nopsd.train import checkpoint
from nopsd.train.batches import batch_uids, rank_micro_batches
from nopsd.train.guards import SKIPPED_IN_ROW, Guards, SkippedSteps
from nopsd.train.metrics import Clock, StepSums, response_metrics
from nopsd.train.planning import is_due, lr_at
from nopsd.train.run import Step, TrainingRun
from nopsd.train.sampling import Sampler, check_gap, serve
from nopsd.train.tracing import Recorder, hand_over
from nopsd.train.usage import Usage


def train(run: TrainingRun, done: int = 0, skipped: int = 0) -> None:
    """Train to `train.steps`, or until a guard stops the run.

    Args:
        run: Engines, data and settings.
        done: Steps done before.
        skipped: Of those, the ones that were not taken.

    Raises:
        Stopped: On all ranks, with the step finished and saved, if any was asked to end (`run.stop`).
    """
    config, algorithm = run.config.train, run.algorithm
    if run.stop.made(run.ranks):
        raise Stopped(f"stopped before step {done}")
    group, groups = run.ranks.rank // run.parallel.size, run.ranks.world // run.parallel.size
    run.guards = Guards(run.config.guard, run.extras.get("guards"))
    skips = SkippedSteps(run.folder, config.max_skipped, skipped, run.extras.get(SKIPPED_IN_ROW, 0))
    with closing(Sampler(run)) as sampler:
        books = Bookkeeping(run, sampler, skips)
        if algorithm.on_policy:
            serve(run, sampler.pending, done)  # no step's gap covers this sync
        usage = Usage(run.student.module.lm, run.config.model.dtype, run.ranks, run.queue)
        for number in range(done, config.steps):
            usage.begin()
            uids = batch_uids(run.selected, number, config.batch, config.seed, run.retained, config.retain.share)
            step = Step(number, uids, [], Clock())
            sampler.sample(step)
            if config.ahead:
                sampler.begin(number + 1)
            step.examples = algorithm.examples(run, step)
            step.batches = rank_micro_batches(step.examples, group, groups, algorithm.batching(run))
            targets = algorithm.targets(run, step)
            if run.trace_every and number % run.trace_every == 0:
                step.recorder = Recorder(step, run.ranks.device)
            with step.clock("student"):
                sums = learn(run, step, targets.of_batches)
            if step.recorder is not None:
                hand_over(run, step, step.recorder)
            if run.student.was_step_applied():
                skips.in_row = 0
                algorithm.after_step(run, number)
            else:
                skips.add(number, step.uids, sums, run.ranks)
            if config.ahead:
                sampler.finish(step.clock)
            done = number + 1
            probes = (config.probe_every, run.config.eval.every)  # of weights that are served by then
            probe_due = any(is_due(every, done, config.steps) for every in probes)
            if algorithm.on_policy or probe_due:
                with step.clock("sync"):
                    serve(run, step.rollouts, done)
            row = step_metrics(run, step, sums, skips) | dict(targets.metrics)
            row |= usage.numbers(step.examples, step.clock.seconds["student"])
            if not books.end_step(number, row, probe_due):
                return
            if run.ranks.device.type == "cpu":
                give_back_freed(collect=False)  # the next step's activations have other sizes


def learn(run: TrainingRun, step: Step, targets: Sequence[Any]) -> StepSums:
    """One optimizer step over all micro-batches: the gradient of the step's whole loss, whatever the split. Collective.

    Args:
        run: Engines, data and settings.
        step: This rank's micro-batches.
        targets: What each learns from.

    Raises:
        StaleWeightsError: Before the weights move, if other weights than these have sampled the responses.
    """
    for group in run.student.optimizer.param_groups:
        group["lr"] = lr_at(step.number, run.config.train)
    sums = StepSums(run.algorithm.logged, run.ranks.device)
    for index, (batch, target) in enumerate(zip(step.batches, targets, strict=True)):
        is_last = index == len(step.batches) - 1
        # by hand, for the number of micro-batches changes from step to step
        run.student.set_gradient_accumulation_boundary(is_last)
        found = run.algorithm.loss(run, batch, target)
        sums.add(batch, found)
        if step.recorder is not None:
            step.recorder.add(batch, found)
        loss = found.loss * run.ranks.world  # its weights hold the global mean: undo the averaging over ranks
        if is_last:
            sums.add_up(run.ranks)
            check_gap(run.config, run.gap_bound, sums.gap(), step.number)
            if not math.isfinite(float(sums.sums[0])):  # of any rank: DeepSpeed looks at the gradient alone
                loss = loss * math.nan
        run.student.backward(loss, scale_wrt_gas=False)  # and leave out that over micro-batches
        run.student.step()
    return sums


def step_metrics(run: TrainingRun, step: Step, sums: StepSums, skips: SkippedSteps) -> dict[str, float]:
    """The step's row, equal on all ranks but for the times (see `nopsd.train.metrics`). Collective."""
    by_name, gap = sums.by_name(), sums.gap()
    row = {
        "loss": by_name["loss"],
        "loss_tokens": by_name["tokens"],
        **run.algorithm.metrics(run, step, by_name),
        "grad_norm": math.nan if skips.in_row else float(run.student.get_global_grad_norm()),
        "lr": lr_at(step.number, run.config.train),
        "skipped_fraction": skips.total / (step.number + 1),
        "policy_version": step.number,
        **{f"time/{phase}": seconds for phase, seconds in step.clock.seconds.items()},
    }
    if by_name["known"]:  # the server's log-probs
        row |= {"logprob_gap": gap.mean, "logprob_gap_high": gap.high, "logprob_gap_max": float(sums.max_gap)}
    if step.rollouts:
        row |= response_metrics(step.rollouts)
        row["staleness"] = step.number - step.rollouts[0].policy_version
    return row


@dataclass
class Bookkeeping:
    """What is done at the end of every step: log, guards, checkpoint, stop. All ranks decide alike."""

    run: TrainingRun
    sampler: Sampler
    skips: SkippedSteps
    rows: list[dict[str, float]] = field(default_factory=list)  # since the last checkpoint

    def end_step(self, number: int, values: Mapping[str, float], probe_due: bool) -> bool:
        """Log and save. Collective.

        Args:
            number: The step, from 0.
            values: Its row.
            probe_due: Sample the probe's questions too.

        Returns:
            False: a guard ends the run.

        Raises:
            Stopped: On all ranks, with the step saved, if any rank was asked to end (`run.stop`).
        """
        run, config, done = self.run, self.run.config.train, number + 1
        probe = run.probe if probe_due else None
        row = broadcast_from_rank0(
            run.ranks, lambda: {**values, **(probe(done) if probe else {})}
        )  # rank 0's on every rank
        row |= run.guards.observe(number, row, run.ranks.is_main)
        if run.log is not None:
            run.log.log(number, row)
        if run.guards.stopped:
            return False
        self.rows.append(row)
        stop = run.stop.made(run.ranks)
        if stop or done % config.checkpoint_every == 0 or done in (config.steps, run.keep.step):
            run.extras = {"guards": run.guards.state(done), **self.sampler.extras()}
            if self.skips.in_row:
                run.extras[SKIPPED_IN_ROW] = self.skips.in_row
            if run.trace is not None:
                run.trace.flush()  # the steps before a checkpoint are not run again
            score = checkpoint.mean_score(self.rows, config.best_by) if run.guards.healthy else None
            self.rows.clear()
            progress = checkpoint.Progress(done, self.skips.total, run.identity, score, run.extras)
            keep = replace(run.keep, last_good=run.guards.last_good_step)
            checkpoint.save(run.student, run.ema, run.folder / checkpoint.FOLDER, progress, keep, run.ranks)
        if run.progress is not None:
            run.progress(done, config.steps, loss=round(row["loss"], 5), **run.guards.summary())
        if stop and done < config.steps:
            raise Stopped(f"stopped after step {done} of {config.steps}, which is saved")
        return True
