"""Neuron On-Policy Self-Distillation's training loop (the paper's Algorithm 1), which all algorithms run.

    for each step: B ← questions of S; y ← π_θ(·|x), zero-shot, from the server; targets of the loss; θ by AdamW;
    what follows θ (an averaged teacher); server ← θ; log, guards, checkpoint

What is sampled, what is learned from, the loss and its metrics are an `Algorithm`'s (nopsd/train/algorithms). Every
rank runs the loop in step with the others. The server always holds version `step` while step `step` trains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nopsd.engine.broadcast import broadcast_from_rank0
from nopsd.engine.student import lr_at, set_lr
from nopsd.errors import Stopped
from nopsd.train import checkpoint
from nopsd.train.batches import Example, MicroBatch, batch_uids, rank_micro_batches
from nopsd.train.checkpoint_files import Score, keep_of
from nopsd.train.guards import SkippedSteps
from nopsd.train.metrics import Clock, StepSums, gap_metrics, response_metrics
from nopsd.train.run import Step, TrainingRun
from nopsd.train.sampling import Sampler, check_gap, check_served


def train(run: TrainingRun, done: int = 0, skipped: int = 0) -> None:
    """Train from step `done` (`skipped` of those before not taken) to `train.steps`, or until a guard stops the run.

    Raises Stopped on all ranks, with the step finished and saved, if any was asked to end (`run.stop`).
    """
    config, algorithm = run.config.train, run.algorithm
    if run.stop.made(run.ranks):
        raise Stopped(f"stopped before step {done}")
    with Sampler(run) as sampler:
        books = Bookkeeping(run, sampler, skipped)
        if algorithm.on_policy:
            serve(run, done)
            check_served(run, sampler.pending, done)  # no step's gap covers this sync
        for number in range(done, config.steps):
            step = Step(number, batch_uids(run.selected, number, config.batch, config.seed), [], Clock())
            sampler.sample(step)
            sampler.begin(number + 1)
            step.examples = algorithm.examples(run, step)
            step.batches = micro_batches(run, step.examples)
            targets = algorithm.targets(run, step)
            with step.clock("student"):
                sums = learn(run, step, targets.of_batches)
            taken = run.student.was_step_applied()
            books.skips.add(taken, number, step.uids, sums, run.ranks)
            if taken:
                algorithm.after_step(run, number)
            sampler.finish(step.clock)
            if algorithm.on_policy or books.probe_is_due(number + 1):
                with step.clock("sync"):
                    serve(run, number + 1)
                    check_served(run, step.rollouts, number + 1)
            if not books.end_step(number, step_metrics(run, step, sums, books.skips) | dict(targets.metrics)):
                return


def serve(run: TrainingRun, version: int) -> None:
    """Have the server sample by the present weights."""
    if run.sync is not None:
        run.sync.push(version=version)


def micro_batches(run: TrainingRun, examples: Sequence[Example]) -> list[MicroBatch]:
    """This rank's share of the step, on its device."""
    batches = rank_micro_batches(examples, run.group, run.groups, run.algorithm.batching(run))
    return [batch.share(run.parallel).to(run.ranks.device) for batch in batches]


def learn(run: TrainingRun, step: Step, targets: Sequence[Any]) -> StepSums:
    """One optimizer step over all micro-batches: the gradient of the step's whole loss, whatever the split. Collective.

    StaleWeightsError, before the weights move, if other weights than these have sampled the responses.
    """
    set_lr(run.student, lr_at(step.number, run.config.train))
    sums = StepSums(run.algorithm.logged, run.ranks.device)
    for index, (batch, target) in enumerate(zip(step.batches, targets, strict=True)):
        is_last = index == len(step.batches) - 1
        # by hand, for the number of micro-batches changes from step to step
        run.student.set_gradient_accumulation_boundary(is_last)
        found = run.algorithm.loss(run, batch, target)
        sums.add(batch, found)
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
    by_name = sums.by_name()
    row = {
        "loss": by_name["loss"],
        "loss_tokens": by_name["tokens"],
        **gap_metrics(by_name),
        **run.algorithm.metrics(run, step, by_name),
        "grad_norm": math.nan if skips.in_row else float(run.student.get_global_grad_norm()),
        "lr": lr_at(step.number, run.config.train),
        "skipped_fraction": skips.total / (step.number + 1),
        "policy_version": step.number,
        **{f"time/{phase}": seconds for phase, seconds in step.clock.seconds.items()},
    }
    if step.rollouts:
        row |= response_metrics(step.rollouts)
        row["staleness"] = step.number - step.rollouts[0].policy_version
    return row


class Bookkeeping:
    """What is done at the end of every step: log, guards, checkpoint, stop. All ranks decide alike."""

    def __init__(self, run: TrainingRun, sampler: Sampler, skipped: int) -> None:
        self.run, self.sampler = run, sampler
        self.skips = SkippedSteps(run.folder, run.config.train.max_skipped, skipped, run.extras)
        self.score = Score(run.config.train.best_by)

    def end_step(self, number: int, values: Mapping[str, float]) -> bool:
        """Log and save; `values` is the step's row. False: a guard ends the run. Collective.

        Raises Stopped on all ranks, with the step saved, if any rank was asked to end (`run.stop`).
        """
        run, config, done = self.run, self.run.config.train, number + 1
        probe = run.probe if self.probe_is_due(done) else None
        row = broadcast_from_rank0(
            run.ranks, lambda: {**values, **(probe(done) if probe else {})}
        )  # rank 0's on every rank
        row |= run.guards.observe(number, row, run.ranks.is_main)
        if run.log is not None:
            run.log.log(number, row)
        if run.guards.stopped:
            return False
        self.score.add(row)
        stop = run.stop.made(run.ranks)
        if stop or done % config.checkpoint_every == 0 or done == config.steps:
            self._save(done)
        if run.progress is not None:
            run.progress(done, config.steps, loss=round(row["loss"], 5), **run.guards.summary())
        if stop and done < config.steps:
            raise Stopped(f"stopped after step {done} of {config.steps}, which is saved")
        return True

    def probe_is_due(self, version: int) -> bool:
        """Whether the probe, where there is one, is asked of these weights: they must be served by then."""
        config = self.run.config.train
        return config.probe_every > 0 and (version % config.probe_every == 0 or version == config.steps)

    def _save(self, done: int) -> None:
        """A checkpoint of all that the next step needs."""
        run, mean = self.run, self.score.take()
        run.extras = {"guards": run.guards.state(done), **self.skips.extras(), **self.sampler.extras()}
        score = mean if run.guards.healthy else None
        keep = keep_of(run.config.train, run.guards.last_good_step)
        progress = checkpoint.Progress(done, self.skips.total, run.identity, score, run.extras)
        checkpoint.save(run.student, run.ema, run.folder / checkpoint.FOLDER, progress, keep, run.ranks)
