"""Figures of an evaluation before and after training: metrics with intervals, and calibration.

Each returns a Figure, or None where the data are not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nopsd.evaluation.bootstrap import Interval
from nopsd.evaluation.metrics import calibration_bins
from nopsd.evaluation.results import DomainResult
from nopsd.reporting.figures.style import BLUE, GREY, panels


def accuracy_figure(
    before: Mapping[str, DomainResult], after: Mapping[str, DomainResult], pool_domain: str
) -> Figure | None:
    """Avg@k, maj@k and ECE of every domain, before and after, with 95 % intervals.

    Args:
        before: By domain, the base's results.
        after: By domain, the student's.
        pool_domain: That was trained on; it stands first.

    Returns:
        None where nothing was evaluated.
    """
    domains = sorted({*before, *after}, key=lambda d: (d != pool_domain, d))
    if not domains:
        return None
    k = next(iter({**before, **after}.values())).samples
    figure, axes = panels(3, width=4.4, height=1.8 + 0.55 * max(len(domains), 2))
    names = [("avg", f"Avg@{k} (%)", 100), ("maj", f"maj@{k} (%)", 100), ("ece", "ECE (less is better)", 1)]
    for axis, (metric, label, scale) in zip(axes, names, strict=True):
        for results, colour, shift, name in ((before, GREY, -0.13, "before"), (after, BLUE, 0.13, "after")):
            points = [(y, results[d].intervals[metric]) for y, d in enumerate(domains) if d in results]
            _dots(axis, points, scale, colour, shift, name)
        axis.set_yticks(range(len(domains)), [f"{d} (pool)" if d == pool_domain else d for d in domains])
        axis.set_ylim(len(domains) - 0.5, -0.5)
        axis.set_xlabel(label)
        if axis is not axes[0]:
            axis.tick_params(labelleft=False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    return figure


def _dots(
    axis: Axes, points: Sequence[tuple[int, Interval]], scale: float, colour: str, shift: float, name: str
) -> None:
    values = np.array([v.value for _, v in points]) * scale
    low = np.array([v.value if v.low is None else v.low for _, v in points]) * scale
    high = np.array([v.value if v.high is None else v.high for _, v in points]) * scale
    # A percentile interval need not hold the point itself (ECE's is biased upwards): bars begin at the point then.
    bars = np.maximum([values - low, high - values], 0)
    axis.errorbar(values, [y + shift for y, _ in points], xerr=bars, fmt="o", color=colour, capsize=3, label=name)


def calibration_figure(before: DomainResult | None, after: DomainResult | None) -> Figure | None:
    """Accuracy of the majority answer against its share, one point a confidence bin, area by questions."""
    shown = [(r, c, n) for r, c, n in ((before, GREY, "before"), (after, BLUE, "after")) if r is not None]
    if not shown:
        return None
    figure, (axis,) = panels(1, width=4.8, height=4.2)
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle="--")
    for result, colour, name in shown:
        outcomes = result.outcomes
        bins = calibration_bins(outcomes.share_N, result.ece_bins)
        points = [
            (outcomes.share_N[bins == b].mean(), outcomes.vote_N[bins == b].mean(), (bins == b).sum())
            for b in np.unique(bins)
        ]
        share, right, count = np.array(points, dtype=float).T
        axis.plot(share, right, color=colour, linewidth=1)
        axis.scatter(
            share,
            right,
            s=12 + 500 * count / count.sum(),
            color=colour,
            alpha=0.6,
            label=f"{name} (ECE {result.metrics['ece']:.3f})",
        )
    axis.set(
        xlim=(-0.03, 1.05),
        ylim=(-0.05, 1.07),
        title=f"Calibration: {shown[0][0].domain}",
        xlabel="majority answer's share of the samples",
        ylabel="majority answer right (share)",
    )
    legend = axis.legend(frameon=False, fontsize=9, loc="upper left")
    for handle in legend.legend_handles:
        handle.set_sizes([40])
    return figure
