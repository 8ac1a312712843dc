"""What is done at the end of every training step, whatever it trained: log, guards, checkpoint, stop (SPEC §6.2).

In: the step's row of numbers. Out: the log's row with the probe's and the guards' numbers, a checkpoint where one is
due. All ranks decide alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self, TypeVar

from torch import Tensor

from nopsd.engine.broadcast import broadcast_from_rank0
from nopsd.engine.distributed import Ranks
from nopsd.errors import Stopped
from nopsd.train import checkpoint
from nopsd.train.score import Score, keep_of
from nopsd.train.served import check_gap
from nopsd.train.skipping import Skips
from nopsd.train.state import TrainingRun


class Sums(Protocol):
    """Running sums of a step: over all ranks, its loss and the largest gap between served and trained log-probs."""

    @property
    def loss(self) -> float: ...

    @property
    def gap_max(self) -> float: ...

    def over_ranks(self, ranks: Ranks) -> Self: ...


S = TypeVar("S", bound=Sums)


def backward(run: TrainingRun, loss: Tensor, sums: S, is_last: bool, step: int) -> S:
    """One micro-batch's backward; with the step's last the optimizer's step too, and sums over all ranks. Collective.

    StaleWeightsError, before the weights move, if other weights than these have sampled the step's responses.
    """
    loss = loss * run.ranks.world  # its weights hold the global mean: undo the averaging over ranks
    if is_last:
        sums = sums.over_ranks(run.ranks)
        check_gap(run.config, sums.gap_max, step)
        if not math.isfinite(sums.loss):  # of any rank: DeepSpeed looks at the gradient alone
            loss = loss * math.nan
    run.student.backward(loss, scale_wrt_gas=False)  # and leave out that over micro-batches
    run.student.step()
    return sums


class Steps:
    """The closing of one step after the other. `extras`: what else a checkpoint has to hold, as JSON."""

    def __init__(self, run: TrainingRun, skipped: int, extras: Callable[[], Mapping[str, Any]] = dict) -> None:
        train = run.config.train
        self.run, self.extras = run, extras
        self.skips = Skips(run.folder, train.max_skipped, skipped, run.extras)
        self.score = Score(train.best_by)

    def close(self, step: int, values: Mapping[str, float]) -> bool:
        """Close `step`, whose row is `values`. False: a guard ends the run. Collective.

        Raises Stopped on all ranks, with the step saved, if any rank was asked to end (`run.stop`).
        """
        run, train, done = self.run, self.run.config.train, step + 1
        row = self._watched(step, values)
        if run.log is not None:
            run.log.log(step, row)
        if run.guards.stopped:
            return False
        self.score.add(row)
        stop = run.stop.made(run.ranks)
        if stop or done % train.checkpoint_every == 0 or done == train.steps:
            self._save(done)
        if run.progress is not None:
            run.progress(done, train.steps, loss=round(row["loss"], 5), **run.guards.told())
        if stop and done < train.steps:
            raise Stopped(f"stopped after step {done} of {train.steps}, which is saved")
        return True

    def probes(self, step: int) -> bool:
        """Whether closing `step` asks the probe, where there is one: the weights after it must be served by then."""
        train, version = self.run.config.train, step + 1
        return train.probe_every > 0 and (version % train.probe_every == 0 or version == train.steps)

    def _watched(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """The step's row with the probe's and the guards' numbers, rank 0's on every rank."""
        run = self.run
        row: dict[str, float] = broadcast_from_rank0(run.ranks, lambda: {**values, **self._probed(step + 1)})
        return {**row, **run.guards.observe(step, row, run.ranks.is_main)}

    def _probed(self, version: int) -> dict[str, float]:
        """The probe's numbers every `train.probe_every` steps, and after the last."""
        probe = self.run.probe
        return probe(version) if probe is not None and self.probes(version - 1) else {}

    def _save(self, step: int) -> None:
        """A checkpoint of all that the next step needs."""
        run, mean = self.run, self.score.take()
        run.extras = {"guards": run.guards.state(step), **self.skips.extras(), **self.extras()}
        checkpoint.save(
            run.student,
            run.ema,
            run.folder / "checkpoints",
            step,
            self.skips.total,
            run.identity,
            keep_of(run.config.train, run.guards.sound_step),
            run.ranks,
            mean if run.guards.sound else None,
            run.extras,
        )


def refuse_if_stopped(run: TrainingRun, step: int) -> None:
    """Stopped, on all ranks, if any was asked to end before `step` began. Collective."""
    if run.stop.made(run.ranks):
        raise Stopped(f"stopped before step {step}")
