"""Sentences that a reader of the report must not miss: failure modes of self-distillation that the numbers show.

In:  `ReportInputs`. Out: lines of text, none if nothing stands out. Nothing here stops a run.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nopsd.evaluation.bootstrap import Interval, paired_differences
from nopsd.reporting.correlations import pearson
from nopsd.reporting.views import PoolView, ReportInputs

GUARD = "guard/"  # names of the guards' counts in the training log


def observations(inputs: ReportInputs) -> list[str]:
    """What stands out in this run, worst failures of measurement first."""
    return [*_evaluation(inputs), *_training(inputs), *_pool(inputs.pool)]


def _evaluation(inputs: ReportInputs) -> Iterator[str]:
    for domain in inputs.before:
        if domain not in inputs.after:
            continue
        before, after = inputs.before[domain], inputs.after[domain]
        k = before.samples
        settings = (before.ece_bins, before.bootstrap, before.seed)
        change = paired_differences([before.outcomes], [after.outcomes], *settings)
        if _surely_below_zero(change["avg"]):
            yield f"{domain}: accuracy fell, and its 95 % interval excludes no change."
        if change["ece"].low is not None and change["ece"].low > 0:
            yield f"{domain}: calibration got worse (ECE {change['ece'].value:+.3f})."
        if change[f"pass@{k}"].value < -0.02 and change["maj"].value >= 0:
            yield f"{domain}: pass@{k} fell while maj@{k} did not: fewer different answers."
        for key, name in (("unparsed", "answers that could not be read"), ("truncated", "responses cut at the limit")):
            if after.metrics[key] > before.metrics[key] + 0.02:
                shares = f"{before.metrics[key]:.1%} to {after.metrics[key]:.1%}"
                yield f"{domain}: {name} rose from {shares}: part of the change may be form, not knowledge."


def _surely_below_zero(change: Interval) -> bool:
    return change.high is not None and change.high < 0


def _training(inputs: ReportInputs) -> Iterator[str]:
    gaps = [row["entropy_gap"] for row in inputs.training[:10] if isinstance(row.get("entropy_gap"), (int, float))]
    if gaps and np.mean(gaps) >= 0:
        yield (
            f"The teacher with demonstrations was not more certain than the student (ΔH {np.mean(gaps):+.4f} nats over "
            "the first steps): little was there to be learnt from the context."
        )
    yield from _guards(inputs)
    lost = sum(row.get("loss", 0) is None for row in inputs.training)
    if lost:
        yield f"The loss was not a finite number in {lost} of {len(inputs.training)} steps."


def _guards(inputs: ReportInputs) -> Iterator[str]:
    """Training guards whose threshold was passed: how often and when, of the steps at which the count changed."""
    for name in sorted({name for row in inputs.training for name in row if name.startswith(GUARD)}):
        counts = [(row["step"], row[name]) for row in inputs.training if name in row]
        passed = [step for (step, count), (_, before) in zip(counts, [(-1, 0), *counts]) if count and count != before]
        if passed:
            yield (
                f"guard.{name.removeprefix(GUARD)} was passed {len(passed)} times in {len(inputs.training)} steps, "
                f"first at step {passed[0]}, {max(count for _, count in counts):.0f} in a row at most: "
                "signs of collapse."
            )


def _pool(pool: PoolView | None) -> Iterator[str]:
    if pool is None or len(pool.counts) < 3:
        return
    r = pearson(pool.counts, pool.lengths)
    if abs(r) > 0.5:
        yield f"Neuron count and response length go together (Pearson {r:+.2f}): see select.length_control."
